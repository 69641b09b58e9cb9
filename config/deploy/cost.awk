# What a billion events cost on AWS, line by line: awk -f config/deploy/cost.awk [-v name=value …]
#
# Every quantity is a formula over the figures below, every price an assumption: US East (N. Virginia), list price without discounts
# and free tiers, as noted in November 2025. Look them up for your region and day, and set them: -v usd_shard_hour=0.018

function default_to(value, usual) { return value == "" ? usual : value + 0 }
function ceil(x) { return x == int(x) ? x : int(x) + 1 }
function line(what, quantity, unit, price) {
  printf "%-46s %16.6g %-16s × %-12.8g = %10.2f USD\n", what, quantity, unit, price, quantity * price
  total += quantity * price
}

BEGIN {
  # The load.
  events          = default_to(events, 1e9)
  bytes           = default_to(bytes, 350)        # of one event
  days            = default_to(days, 30)          # over which they arrive, evenly
  aggregate       = default_to(aggregate, 1)      # events in one Kinesis record (KPL aggregation)
  on_demand       = default_to(on_demand, 0)      # 1 = on-demand stream
  retention       = default_to(retention, 168)    # hours

  # The settings.
  interval        = default_to(interval, 300)     # commit.interval in seconds (cost-optimised; 10 is the default, 1 low-latency)
  failover        = default_to(failover, 60)      # store.failover in seconds
  tables          = default_to(tables, 2)         # Gold tables, hourly
  tasks           = default_to(tasks, 2)          # Fargate tasks …
  vcpu            = default_to(vcpu, 0.5)         # … of this size
  memory          = default_to(memory, 1)         # GB

  # Measured (README.md, "Cost"), or counted in the code.
  cpu_per_million = default_to(cpu_per_million, 20) # CPU seconds per million events, the whole pipeline
  row_kb          = default_to(row_kb, 2)         # a shard's row, rounded up to whole KB: write units of one update
  window_kb       = default_to(window_kb, 2)      # a window's row
  window_writes   = default_to(window_writes, 8)  # updates of a window's row in its life: bases, emissions, seal
  stored_share    = default_to(stored_share, 0.35)  # bytes in Bronze and Silver of one byte of input (zstd)

  # Prices in USD.
  usd_shard_hour    = default_to(usd_shard_hour, 0.015)
  usd_put_unit      = default_to(usd_put_unit, 0.014e-6)     # 25 KB of one record
  usd_extended_hour = default_to(usd_extended_hour, 0.020)   # shard and hour, retention beyond 24 h
  usd_stream_hour   = default_to(usd_stream_hour, 0.04)      # on-demand
  usd_gb_in         = default_to(usd_gb_in, 0.08)            # on-demand, each record rounded up to 1 KB
  usd_gb_out        = default_to(usd_gb_out, 0.04)
  usd_gb_extended   = default_to(usd_gb_extended, 0.10)      # on-demand, GB-month beyond 24 h
  usd_write         = default_to(usd_write, 0.625e-6)        # DynamoDB on-demand, 1 KB
  usd_read          = default_to(usd_read, 0.125e-6)         # 4 KB, consistent
  usd_put           = default_to(usd_put, 5e-6)              # S3 PUT, LIST
  usd_get           = default_to(usd_get, 0.4e-6)
  usd_gb_month      = default_to(usd_gb_month, 0.023)
  usd_vcpu_hour     = default_to(usd_vcpu_hour, 0.04048)     # Fargate, Linux, x86
  usd_memory_hour   = default_to(usd_memory_hour, 0.004445)  # GB
  usd_metric        = default_to(usd_metric, 0.30)           # CloudWatch, metric-month
  usd_alarm         = default_to(usd_alarm, 0.10)

  seconds = days * 86400; hours = days * 24; months = days / 30
  records = events / aggregate
  # A shard takes 1 MB and 1000 records a second; a third to spare.
  shards = ceil(1.33 * (bytes * events / seconds / 1e6 > records / seconds / 1000 ? bytes * events / seconds / 1e6 : records / seconds / 1000))
  if (shards < 1) shards = 1
  epochs = shards * seconds / interval
  mib = bytes * events / epochs / 1048576                    # raw input of one epoch
  # Up to store.inline (1 MiB) a file is one put; above, an upload: begun, parts of 8 MiB, completed.
  file_puts = mib * stored_share / 2 <= 1 ? 1 : 2 + ceil(mib * stored_share / 2 / 8)

  printf "%g events of %g bytes over %g days: %.0f a second, %d shards, %.0f epochs of %.2f MiB\n\n", events, bytes, days, events / seconds, shards, epochs, mib
  if (on_demand) {
    kb = ceil(bytes * aggregate / 1024)
    line("Kinesis, stream hours", hours, "h", usd_stream_hour)
    line("Kinesis, in (records × whole KB)", records * kb / 1048576, "GB", usd_gb_in)
    line("Kinesis, out (one reader)", events * bytes / 1073741824, "GB", usd_gb_out)
    line("Kinesis, kept beyond 24 h", records * kb / 1048576 / days * (retention - 24) / 24 * months, "GB-month", retention > 24 ? usd_gb_extended : 0)
  } else {
    line("Kinesis, shard hours", shards * hours, "h", usd_shard_hour)
    line("Kinesis, PUT payload units (25 KB)", records * ceil(bytes * aggregate / 25600), "units", usd_put_unit)
    line("Kinesis, kept beyond 24 h", shards * hours, "h", retention > 24 ? usd_extended_hour : 0)
  }
  line("DynamoDB, one update an epoch", epochs * row_kb, "WRU", usd_write)
  line("DynamoDB, life signs (failover ÷ 3) + Gold", (shards + 1) * row_kb * seconds / (failover / 3), "WRU", usd_write)
  line("DynamoDB, looks at the shards, every worker", tasks * ceil(shards * row_kb / 4) * seconds / (failover / 3), "RRU", usd_read)
  line("DynamoDB, windows", tables * hours * window_writes * window_kb, "WRU", usd_write)
  line("S3, epoch object, Bronze, Silver: puts", epochs * (1 + 2 * file_puts), "puts", usd_put)
  line("S3, windows: content, object, row; bases", tables * hours * 2 * window_writes, "puts", usd_put)
  line("S3, Gold reads epochs; heads", epochs * 3, "gets", usd_get)
  line("S3, a month of Bronze and Silver", events * bytes * stored_share / 1073741824, "GB-month", usd_gb_month)
  line("Fargate, vCPU", tasks * vcpu * hours, "vCPU-h", usd_vcpu_hour)
  line("Fargate, memory", tasks * memory * hours, "GB-h", usd_memory_hour)
  line("CloudWatch, 9 metrics", 9 * months, "metric-months", usd_metric)
  line("CloudWatch, 5 alarms", 5 * months, "alarm-months", usd_alarm)
  printf "%-46s %60.2f USD\n", "together", total
  printf "\nOf the vCPU hours paid for, %.1f of %.0f are worked: %g CPU seconds per million events.\n", events / 1e6 * cpu_per_million / 3600, tasks * vcpu * hours, cpu_per_million
  if (events / 1e6 * cpu_per_million / 3600 > 0.7 * tasks * vcpu * hours) print "That is too little to spare: more tasks or larger ones."
}
