//! The service's own binary against a real Redis, both on loopback.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that is ended when the test is over, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("its address").port()
}

fn redis(port: u16, password: &str) -> Running {
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--requirepass", password, "--port", &port.to_string()])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server must be installed (Debian: apt-get install redis-server)");
    let running = Running(child);
    eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    running
}

/// The service's environment is given whole: nothing of the caller's leaks in.
fn service(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.env_clear().envs(settings.iter().copied()).stdout(Stdio::piped());
    command
}

fn start(redis_port: u16, password: &str) -> (Running, u16) {
    let port = free_port();
    let child = service(&[
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &redis_port.to_string()),
        ("REDIS_PASSWORD", password),
        ("BIND_PORT", &port.to_string()),
    ])
    .spawn()
    .expect("the service starts");
    let running = Running(child);
    eventually("the service listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (running, port)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Status and whole answer of a GET.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answer");
    let status = answer.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
    (status, answer)
}

#[test]
fn concurrent_hits_are_each_counted_once() {
    let redis_port = free_port();
    let _redis = redis(redis_port, "secret");
    let (_service, port) = start(redis_port, "secret");
    let workers: Vec<_> = (0..8)
        .map(|_| std::thread::spawn(move || (0..25).map(|_| get(port, "/")).collect::<Vec<_>>()))
        .collect();
    let mut seen: Vec<u64> = workers
        .into_iter()
        .flat_map(|w| w.join().expect("worker"))
        .map(|(status, answer)| {
            assert_eq!(status, 200, "{answer}");
            let greeting = answer.lines().last().expect("a body");
            let count = greeting.strip_prefix("Hello from Redis! I have been seen ").expect("the greeting");
            count.strip_suffix(" times.").expect("its end").parse().expect("a number")
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<u64>>());
}

#[test]
fn redis_away_is_said_and_its_return_is_noticed() {
    let redis_port = free_port();
    let (_service, port) = start(redis_port, "secret");
    assert_eq!(get(port, "/healthz").0, 200);
    assert_eq!(get(port, "/readyz").0, 503);
    let (status, answer) = get(port, "/");
    assert_eq!(status, 503);
    assert!(answer.contains("application/problem+json"), "{answer}");
    let _redis = redis(redis_port, "secret");
    eventually("ready again", || get(port, "/readyz").0 == 200);
    assert_eq!(get(port, "/").0, 200);
}

#[test]
fn a_wrong_password_is_not_ready() {
    let redis_port = free_port();
    let _redis = redis(redis_port, "secret");
    let (_service, port) = start(redis_port, "wrong");
    assert_eq!(get(port, "/readyz").0, 503);
    assert_eq!(get(port, "/").0, 503);
}

#[test]
fn bad_settings_are_all_named_at_once() {
    let output = service(&[("BIND_PORT", "0"), ("REDIS_PORT", "x")]).output().expect("the service runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("BIND_PORT") && said.contains("REDIS_PORT"), "{said}");
}

#[test]
fn a_port_in_use_is_an_error_not_a_panic() {
    let taken = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    let output = service(&[("BIND_PORT", &port)]).output().expect("the service runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on port {port}")), "{said}");
}
