//! What is counted, and its text for Prometheus. Counting is a few atomic additions: no lock stands in a request's way,
//! and labels come from fixed sets, so that a scanner can't make series without end.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route {
    /// The greeting.
    Root,
    /// Liveness.
    Live,
    /// Readiness.
    Ready,
    /// These numbers.
    Metrics,
    /// Anything else.
    Other,
}

const ROUTES: [(Route, &str); 5] = [
    (Route::Root, "/"),
    (Route::Live, "/healthz"),
    (Route::Ready, "/readyz"),
    (Route::Metrics, "/metrics"),
    (Route::Other, "other"),
];

/// Every status that is ever answered.
const STATUSES: [u16; 8] = [200, 400, 404, 405, 413, 414, 431, 503];

/// What Redis is asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Command {
    /// A hit.
    Incr,
    /// Whether it is there.
    Ping,
    /// A new connection, with all that belongs to it.
    Connect,
}

const COMMANDS: [&str; 3] = ["INCR", "PING", "CONNECT"];

/// Why Redis gave no answer that is of use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// There is no connection; nothing was sent.
    Down,
    /// No answer in time.
    Timeout,
    /// No connection, or a broken one.
    Io,
    /// A certificate was not accepted.
    Tls,
    /// User or password were not accepted, or may not do this.
    Auth,
    /// It is a replica.
    Readonly,
    /// Another error that Redis answered.
    Server,
}

const FAULTS: [&str; 7] = ["down", "timeout", "io", "tls", "auth", "readonly", "server"];

/// Upper ends of the histograms' buckets in microseconds, and as Prometheus writes them.
const BUCKETS: [(u64, &str); 15] = [
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
];

#[derive(Default)]
struct Histogram {
    /// Each value in one bucket; the last is for what is above all.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|(end, _)| micros <= *end).unwrap_or(BUCKETS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, label: &str) {
        let mut total = 0;
        for (bucket, end) in self.buckets.iter().zip(BUCKETS.iter().map(|(_, end)| *end).chain(["+Inf"])) {
            total += bucket.load(Relaxed);
            let _ = writeln!(text, "{name}_bucket{{{label},le=\"{end}\"}} {total}");
        }
        let seconds = Duration::from_micros(self.micros.load(Relaxed)).as_secs_f64();
        let _ = writeln!(text, "{name}_sum{{{label}}} {seconds}\n{name}_count{{{label}}} {total}");
    }
}

/// Everything that is counted since the process started.
pub struct Metrics {
    started: SystemTime,
    requests: [[AtomicU64; STATUSES.len()]; ROUTES.len()],
    durations: [Histogram; ROUTES.len()],
    /// Requests that are being answered.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Connections that were one too many.
    pub refused: AtomicU64,
    /// 1 while there is a connection to Redis that answers.
    pub redis_up: AtomicU64,
    /// Connections to Redis that were made.
    pub redis_connects: AtomicU64,
    round_trips: [Histogram; 2],
    redis_errors: [[AtomicU64; FAULTS.len()]; COMMANDS.len()],
}

/// A number of things that are there at the moment.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// One more, until what is returned is dropped.
    pub fn enter(&self) -> impl Drop {
        self.0.fetch_add(1, Relaxed);
        Entered(&self.0)
    }
}

struct Entered<'a>(&'a AtomicI64);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            requests: Default::default(),
            durations: Default::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused: AtomicU64::default(),
            redis_up: AtomicU64::default(),
            redis_connects: AtomicU64::default(),
            round_trips: Default::default(),
            redis_errors: Default::default(),
        }
    }
}

impl Route {
    /// The route of a path.
    pub fn of(path: &str) -> Self {
        ROUTES.iter().find(|(_, p)| *p == path).map_or(Self::Other, |(route, _)| *route)
    }
}

impl Metrics {
    /// Counts a request that was answered.
    pub fn request(&self, route: Route, status: u16, time: Duration) {
        self.unheard(route, status);
        self.durations[route as usize].add(time);
    }

    /// Counts a request that was refused before it was whole.
    pub fn unheard(&self, route: Route, status: u16) {
        let status = STATUSES.iter().position(|s| *s == status).unwrap_or(STATUSES.len() - 1);
        self.requests[route as usize][status].fetch_add(1, Relaxed);
    }

    /// Takes the time of an answer from Redis.
    pub fn round_trip(&self, command: Command, time: Duration) {
        if let Some(histogram) = self.round_trips.get(command as usize) {
            histogram.add(time);
        }
    }

    /// Counts a failure of Redis.
    pub fn redis_error(&self, command: Command, fault: Fault) {
        self.redis_errors[command as usize][fault as usize].fetch_add(1, Relaxed);
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let t = &mut text;
        family(t, "hello_build_info", "gauge", "The version that runs.");
        let _ = writeln!(t, "hello_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        family(t, "hello_http_requests_total", "counter", "Requests by route and status.");
        for ((_, route), statuses) in ROUTES.iter().zip(&self.requests) {
            for (status, n) in STATUSES.iter().zip(statuses) {
                let n = n.load(Relaxed);
                let _ = writeln!(t, "hello_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {n}");
            }
        }
        let name = "hello_http_request_duration_seconds";
        family(t, name, "histogram", "Time from a request's head to its answer's.");
        for ((_, route), histogram) in ROUTES.iter().zip(&self.durations) {
            histogram.write(t, name, &format!("route=\"{route}\""));
        }
        let in_flight = self.in_flight.0.load(Relaxed);
        one(t, "hello_http_requests_in_flight", "gauge", "Requests being answered.", in_flight);
        one(t, "hello_connections", "gauge", "Open connections.", self.connections.0.load(Relaxed));
        let refused = self.refused.load(Relaxed);
        one(t, "hello_connections_refused_total", "counter", "Connections beyond MAX_CONNECTIONS.", refused);
        one(t, "hello_redis_up", "gauge", "Whether Redis answers.", self.redis_up.load(Relaxed));
        let connects = self.redis_connects.load(Relaxed);
        one(t, "hello_redis_connects_total", "counter", "Connections made to Redis.", connects);
        let name = "hello_redis_round_trip_seconds";
        family(t, name, "histogram", "Time from a command to its answer.");
        for (command, histogram) in COMMANDS.iter().zip(&self.round_trips) {
            histogram.write(t, name, &format!("command=\"{command}\""));
        }
        let name = "hello_redis_errors_total";
        family(t, name, "counter", "Commands and connections that failed, by what was the matter.");
        for (command, faults) in COMMANDS.iter().zip(&self.redis_errors) {
            for (kind, n) in FAULTS.iter().zip(faults) {
                let n = n.load(Relaxed);
                let _ = writeln!(t, "{name}{{command=\"{command}\",kind=\"{kind}\"}} {n}");
            }
        }
        self.process(t);
        text
    }

    fn process(&self, t: &mut String) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        one(t, "process_start_time_seconds", "gauge", "Start of the process, Unix time.", started);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
        if let Some(Ok(kibibytes)) = resident.map(str::parse::<u64>) {
            one(t, "process_resident_memory_bytes", "gauge", "Resident memory.", kibibytes * 1024);
        }
        if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
            one(t, "process_open_fds", "gauge", "Open file descriptors.", open.count());
        }
    }
}

fn family(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn one(text: &mut String, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
    family(text, name, kind, help);
    let _ = writeln!(text, "{name} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_the_order_of_their_enums() {
        for (i, (route, path)) in ROUTES.iter().enumerate() {
            assert_eq!((*route as usize, Route::of(path)), (i, *route));
        }
        assert_eq!((Route::of("/.env"), Route::of("")), (Route::Other, Route::Other));
        assert_eq!(COMMANDS[Command::Connect as usize], "CONNECT");
        assert_eq!(FAULTS[Fault::Server as usize], "server");
    }

    #[test]
    fn what_is_counted_is_said() {
        let metrics = Metrics::default();
        metrics.request(Route::Root, 200, Duration::from_micros(100));
        metrics.request(Route::Root, 200, Duration::from_micros(101));
        metrics.request(Route::Root, 503, Duration::from_secs(6));
        metrics.unheard(Route::Other, 431);
        metrics.redis_error(Command::Incr, Fault::Timeout);
        metrics.round_trip(Command::Ping, Duration::from_millis(2));
        let held = metrics.in_flight.enter();
        let text = metrics.text();
        for line in [
            "hello_http_requests_total{route=\"/\",status=\"200\"} 2",
            "hello_http_requests_total{route=\"other\",status=\"431\"} 1",
            "hello_http_request_duration_seconds_bucket{route=\"/\",le=\"0.0001\"} 1",
            "hello_http_request_duration_seconds_bucket{route=\"/\",le=\"0.00025\"} 2",
            "hello_http_request_duration_seconds_bucket{route=\"/\",le=\"5\"} 2",
            "hello_http_request_duration_seconds_bucket{route=\"/\",le=\"+Inf\"} 3",
            "hello_http_request_duration_seconds_sum{route=\"/\"} 6.000201",
            "hello_http_request_duration_seconds_count{route=\"/\"} 3",
            "hello_http_requests_in_flight 1",
            "hello_redis_round_trip_seconds_count{command=\"PING\"} 1",
            "hello_redis_errors_total{command=\"INCR\",kind=\"timeout\"} 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        drop(held);
        assert!(metrics.text().contains("hello_http_requests_in_flight 0\n"));
    }
}
