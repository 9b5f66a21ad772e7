//! Counters, and their text for Prometheus.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The routes that have a series of their own; whatever else is asked for is `other`, so that a scanner cannot
/// make series without end.
const ROUTES: [&str; 4] = ["/", "/healthz", "/readyz", "/metrics"];

/// Everything that is counted since the process started.
#[derive(Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    redis_errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// Counts one request that was answered with `status`.
    pub fn request(&self, path: &str, status: u16) {
        let route = ROUTES.into_iter().find(|r| *r == path).unwrap_or("other");
        *open(&self.requests).entry((route, status)).or_default() += 1;
    }

    /// Counts one Redis command that failed or was not answered in time.
    pub fn redis_error(&self, command: &'static str) {
        *open(&self.redis_errors).entry(command).or_default() += 1;
    }

    /// All counters in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        family(&mut text, "hello_build_info", "gauge", "The version that runs.");
        let _ = writeln!(text, "hello_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        family(&mut text, "hello_http_requests_total", "counter", "Requests by route and status.");
        for ((route, status), n) in open(&self.requests).iter() {
            let _ = writeln!(text, "hello_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
        }
        family(
            &mut text,
            "hello_redis_errors_total",
            "counter",
            "Redis commands that failed or came too late.",
        );
        for (command, n) in open(&self.redis_errors).iter() {
            let _ = writeln!(text, "hello_redis_errors_total{{command=\"{command}\"}} {n}");
        }
        text
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A counter is whole at any time: a panic elsewhere is no reason to stop counting.
fn open<T>(counters: &Mutex<T>) -> MutexGuard<'_, T> {
    counters.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_share_one_series() {
        let metrics = Metrics::default();
        metrics.request("/", 200);
        metrics.request("/", 200);
        metrics.request("/.env", 404);
        metrics.request("/x\"y", 404);
        metrics.redis_error("INCR");
        assert_eq!(
            metrics.text(),
            format!(
                "# HELP hello_build_info The version that runs.\n\
                 # TYPE hello_build_info gauge\n\
                 hello_build_info{{version=\"{}\"}} 1\n\
                 # HELP hello_http_requests_total Requests by route and status.\n\
                 # TYPE hello_http_requests_total counter\n\
                 hello_http_requests_total{{route=\"/\",status=\"200\"}} 2\n\
                 hello_http_requests_total{{route=\"other\",status=\"404\"}} 2\n\
                 # HELP hello_redis_errors_total Redis commands that failed or came too late.\n\
                 # TYPE hello_redis_errors_total counter\n\
                 hello_redis_errors_total{{command=\"INCR\"}} 1\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }
}
