// Command coredns is CoreDNS with what a cluster's own names need; upstream's program brings every cloud's SDK along.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() {
	// The order in which plugins see a request.
	dnsserver.Directives = []string{"bind", "errors", "kubernetes"}
	coremain.Run()
}
