// Command etcd is etcd's server. Upstream's own main package lies in a module that only its repository can build.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
