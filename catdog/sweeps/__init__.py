"""A sweep: planned and checked before its first run starts, one supervised process per run, one MLflow parent."""
