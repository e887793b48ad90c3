"""The training set by Spark, for lakes that outgrow one machine: the same `training_set.sql` on the same snapshot.

Started by `spark-submit` (or a SparkApplication), the cluster's configuration counts; otherwise Spark runs in this
process and fetches the jars of Delta Lake by its own resolver.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any

from mechanism.errors import ConfigError, InputError
from streaming.lake.schema import TABLES
from streaming.lake.store import Lake
from streaming.lake.training_rows import Versions
from streaming.lake.training_set import bounds, query, training_schema

SUBMITTED = "PYSPARK_GATEWAY_PORT"
"""The environment variable that `spark-submit` sets for the programs that it starts."""


def write_training_set(
    url: str,
    versions: Versions,
    out: str,
    window_s: float,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    usable: bool = True,
) -> int:
    """Write the training set as Parquet files into the new folder or URL `out`; return the number of rows.

    `versions` pins the snapshot of the lake at `url`. Columns that no stored event has yet are left out.

    Raises:
        InputError: if `out` exists.
        AnalysisException: if Spark refuses the query for any other reason.
    """
    from pyspark.errors import AnalysisException

    spark, lake = open_session(), Lake(url)
    for name in TABLES:
        table = spark.read.format("delta").option("versionAsOf", getattr(versions, name))
        table.load(_hadoop_url(lake.location(name))).createOrReplaceTempView(name)
    found = spark.sql(query(*bounds(since, until), window_s))
    columns = [name for name in training_schema().names if name in found.columns]
    rows = (found.where("usable") if usable else found).orderBy("occurred_us", "auction_id").select(*columns)
    try:
        rows.write.option("compression", "zstd").parquet(_hadoop_url(out))
    except AnalysisException as error:
        if error.getCondition() != "PATH_ALREADY_EXISTS":
            raise
        raise InputError("--out", out, "it exists already: give a new folder") from None
    return int(spark.read.parquet(_hadoop_url(out)).count())


def open_session() -> Any:
    """Return the session of this process, with Delta Lake.

    Raises:
        ConfigError: if there is no Java to start Spark with.
        PySparkRuntimeError: if Spark does not start for any other reason.
    """
    from delta import configure_spark_with_delta_pip
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    builder = (
        SparkSession.builder.appName("llm-auction training-set")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    )
    if SUBMITTED not in os.environ:
        # the defaults of 200 and 50 tasks a step are for clusters
        tasks = os.cpu_count() or 1
        builder = builder.config("spark.sql.shuffle.partitions", tasks).config("spark.ui.enabled", value=False)
        builder = configure_spark_with_delta_pip(builder.config("spark.databricks.delta.snapshotPartitions", tasks))
    try:
        return builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise ConfigError("--engine", "spark", "it needs Java 17: install it, or set JAVA_HOME") from error


def _hadoop_url(url: str) -> str:
    """Return an object store's URL under the name that Hadoop's client has for it."""
    return f"s3a://{url.removeprefix('s3://')}" if url.startswith("s3://") else url
