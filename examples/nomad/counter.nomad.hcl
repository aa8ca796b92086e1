# Not run: see README.md.
job "counter" {
  type = "service"

  # Set `meta { s3vol = "true" }` in the client configuration of nodes that have the plugin.
  constraint {
    attribute = "${meta.s3vol}"
    value     = "true"
  }

  group "app" {
    count = 1 # one host writes a volume at a time

    restart {
      attempts = 10
      delay    = "10s"
      interval = "5m"
      mode     = "delay"
    }

    reschedule {
      delay          = "15s"
      delay_function = "constant"
      unlimited      = true
    }

    task "app" {
      driver       = "docker"
      kill_timeout = "30s"

      config {
        image   = "alpine"
        command = "/bin/sh"
        args    = ["-c", "trap 'exit 0' TERM; while :; do date >>/data/log; sync /data/log; sleep 1; done"]

        mount {
          type   = "volume"
          source = "counter"
          target = "/data"
          volume_options {
            driver_config {
              name = "s3vol"
              options {
                commit = "2s"
              }
            }
          }
        }
      }
    }
  }
}
