//! The connection to Redis goes wrong in ways that Redis alone does not show: a proxy between the two, and a Redis
//! that refuses at first.

use super::*;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What the proxy does with Redis' answers.
const PASS: u8 = 0;
/// They never arrive, and the connection is cut.
const CUT: u8 = 1;
/// They never arrive, and the connection stays open.
const STALL: u8 = 2;

/// A proxy to Redis; requests always get through, so a command whose answer is lost has been carried out.
fn proxy(redis_port: u16) -> (Arc<AtomicU8>, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let mode = Arc::new(AtomicU8::new(PASS));
    let given = mode.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, mode) = (client.expect("a connection"), mode.clone());
            let redis = TcpStream::connect(("127.0.0.1", redis_port)).expect("redis");
            let (mut requests, mut to) =
                (client.try_clone().expect("a handle"), redis.try_clone().expect("a handle"));
            std::thread::spawn(move || std::io::copy(&mut requests, &mut to));
            std::thread::spawn(move || answers(redis, client, &mode));
        }
    });
    (given, port)
}

fn answers(mut redis: TcpStream, mut client: TcpStream, mode: &AtomicU8) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = redis.read(&mut buffer) {
        match mode.load(Ordering::SeqCst) {
            PASS => client.write_all(&buffer[..n]).expect("the service reads"),
            CUT => return client.shutdown(Shutdown::Both).expect("cut"),
            // This connection is lost for good, whatever the mode is later.
            _ => loop {
                std::thread::park();
            },
        }
    }
}

fn count(port: u16) -> String {
    get(port, "/").1.lines().last().expect("a body").to_owned()
}

#[test]
fn a_hit_whose_answer_is_lost_is_counted_once_and_said_to_have_failed() {
    let redis_port = free_port();
    let _redis = redis(redis_port, "secret");
    let (mode, proxy_port) = proxy(redis_port);
    let (_service, port) = start(proxy_port, "secret");
    assert_eq!(count(port), "Hello from Redis! I have been seen 1 times.");
    for (fault, next) in [(CUT, 3), (STALL, 5)] {
        mode.store(fault, Ordering::SeqCst);
        assert_eq!(get(port, "/").0, 503);
        mode.store(PASS, Ordering::SeqCst);
        // The lost one is in Redis exactly once, and the next goes over a connection that works.
        assert_eq!(count(port), format!("Hello from Redis! I have been seen {next} times."));
    }
}

#[test]
fn a_password_that_becomes_right_is_accepted_without_a_restart() {
    let redis_port = free_port();
    let _redis = redis(redis_port, "old");
    let (_service, port) = start(redis_port, "new");
    assert_eq!(get(port, "/").0, 503);
    let changed = Command::new("redis-cli")
        .args([
            "-p",
            &redis_port.to_string(),
            "-a",
            "old",
            "--no-auth-warning",
            "config",
            "set",
            "requirepass",
            "new",
        ])
        .output()
        .expect("redis-cli must be installed (Debian: apt-get install redis-tools)");
    assert_eq!(String::from_utf8_lossy(&changed.stdout).trim(), "OK");
    assert_eq!(get(port, "/").0, 200);
}

#[test]
fn a_refusal_by_redis_is_no_reason_for_a_new_connection() {
    let redis_port = free_port();
    let _redis = redis(redis_port, "secret");
    let (_service, port) = start(redis_port, "secret");
    let cli = |args: &[&str]| {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &redis_port.to_string(), "-a", "secret", "--no-auth-warning"]).args(args);
        String::from_utf8_lossy(&command.output().expect("redis-cli").stdout).into_owned()
    };
    assert_eq!(get(port, "/").0, 200);
    cli(&["set", "hits", "many"]);
    for _ in 0..5 {
        assert_eq!(get(port, "/").0, 503);
    }
    cli(&["del", "hits"]);
    assert_eq!(count(port), "Hello from Redis! I have been seen 1 times.");
    // Two by redis-cli before it asks, its own, and the service's one.
    assert!(
        cli(&["info", "stats"]).contains("total_connections_received:5\r"),
        "{}",
        cli(&["info", "stats"])
    );
}
