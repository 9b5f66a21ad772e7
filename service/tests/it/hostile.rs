//! Clients that do harm: they are answered or refused, and nobody else notices.

use super::*;
use std::io::ErrorKind;

/// Sends `request` and reads until the connection ends; a reset is an end too.
fn whole(service: &Service, request: &[u8]) -> String {
    let mut client = Client::connect(service.port);
    // It may be refused before it is sent.
    let _ = client.stream.write_all(request);
    rest(&mut client.stream)
}

fn rest(stream: &mut TcpStream) -> String {
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{e}");
                break;
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn is_well(service: &Service) {
    assert_eq!(service.status("/healthz"), 200);
    let resident = service.metric("process_resident_memory_bytes");
    // What the chart and the compose file allow.
    assert!(resident < 64.0 * 1024.0 * 1024.0, "{resident} bytes");
}

#[test]
fn heads_that_are_too_long_or_none_are_refused() {
    let service = Service::start(free_port(), &[]);
    let long = "x".repeat(20_000);
    let many = "X: y\r\n".repeat(100);
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n"), 431),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        ("GET / HTTP/9.9\r\n\r\n".into(), 400),
        ("\u{1}\u{2}\u{3} not HTTP\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n".into(), 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n".into(), 400),
    ] {
        let answer = whole(&service, request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status} for {request:.40?}: {answer:?}"
        );
    }
    for (status, times) in [(431, 3.0), (400, 4.0)] {
        let series = format!("hello_http_requests_total{{route=\"other\",status=\"{status}\"}}");
        // They are counted when the connection is done with, a moment after the answer.
        eventually("all are counted", || service.metric(&series) == times);
    }
    is_well(&service);
}

#[test]
fn bodies_are_refused_however_long() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[]);
    for head in ["GET / HTTP/1.1\r\nContent-Length: 5", "POST / HTTP/1.1\r\nContent-Length: 99999999999"] {
        let answer = whole(&service, format!("{head}\r\nHost: x\r\n\r\nhello").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("connection: close"), "{answer}");
    }
    let mut client = Client::connect(service.port);
    client
        .stream
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("sent");
    let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
    let mut sent = 0;
    while client.stream.write_all(chunk.as_bytes()).is_ok() {
        sent += chunk.len();
        // What the kernels' buffers take, and some; an endless body must have an end.
        assert!(sent < 64 * 1024 * 1024, "it reads all of it");
    }
    assert_eq!(redis.hits(), 0);
    is_well(&service);
}

#[test]
fn slow_senders_are_closed_and_others_are_served_meanwhile() {
    let settings = [("HEADER_TIMEOUT_MS", "500"), ("MAX_CONNECTIONS", "80")];
    let service = Service::start(free_port(), &settings);
    let mut slow: Vec<_> = (0..64).map(|_| Client::connect(service.port)).collect();
    let mut head = "GET /healthz HTTP/1.1\r\nHost: x\r\nX: ".bytes().chain(std::iter::repeat(b'x'));
    let since = Instant::now();
    // Each would go on for ever; none may, and the last is gone when writing to it fails.
    while !slow.is_empty() {
        let byte = [head.next().expect("a byte")];
        slow.retain_mut(|client| client.stream.write_all(&byte).is_ok());
        assert_eq!(service.status("/healthz"), 200);
        assert!(since.elapsed() < Duration::from_secs(15), "{} are still there", slow.len());
        std::thread::sleep(Duration::from_millis(20));
    }
    // One that says nothing at all, and one that keeps its connection after a first request, which may wait longer.
    let (mut silent, mut kept) = (Client::connect(service.port), Client::connect(service.port));
    assert_eq!(kept.get("/healthz").expect("an answer").status, 200);
    assert_eq!(rest(&mut silent.stream), "");
    assert_eq!(kept.get("/healthz").expect("another").status, 200);
}

#[test]
fn a_connection_that_is_kept_for_nothing_is_closed() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[("IDLE_TIMEOUT_MS", "1500")]);
    for path in ["/healthz", "/"] {
        let mut client = Client::connect(service.port);
        for _ in 0..3 {
            assert_eq!(client.get(path).expect("an answer").status, 200);
            // Less than it may wait, but more in the end, and each wait is one of its own.
            std::thread::sleep(Duration::from_millis(600));
        }
        assert_eq!(rest(&mut client.stream), "", "{path}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order_and_readers_must_read() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[("HEADER_TIMEOUT_MS", "500")]);
    let mut client = Client::connect(service.port);
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    client.stream.write_all(request.repeat(500).as_bytes()).expect("sent");
    for n in 1..=500 {
        assert_eq!(client.answer().expect("an answer").count(), Some(n));
    }
    // Asks and asks, and reads nothing.
    let asks = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let since = Instant::now();
    while client.stream.write_all(asks.as_bytes()).is_ok() {
        assert!(since.elapsed() < Duration::from_secs(15), "it is still listened to");
    }
    is_well(&service);
}

#[test]
fn thousands_of_connections_are_answered_or_refused() {
    const MAX: usize = 200;
    const ALL: usize = 2000;
    // None may lose its place because this test is slow to ask.
    let settings = [("MAX_CONNECTIONS", &*MAX.to_string()), ("HEADER_TIMEOUT_MS", "60000")];
    let service = Service::start(free_port(), &settings);
    // The one that asked whether it listens is gone first.
    eventually("none is open", || service.metric("hello_connections") == 1.0);
    let mut open: Vec<_> = (0..ALL).map(|_| Client::connect(service.port)).collect();
    let (mut served, mut refused) = (0, 0);
    for client in &mut open {
        match client.get("/healthz") {
            Ok(answer) if answer.status == 200 => served += 1,
            Ok(answer) => {
                assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
                refused += 1;
            }
            // Closed without a word.
            Err(_) => refused += 1,
        }
    }
    assert!(served >= MAX && served + refused == ALL, "{served} served, {refused} refused");
    drop(open);
    eventually("there is room again", || service.status("/healthz") == 200);
    assert_eq!(service.metric("hello_connections_refused_total"), refused as f64);
    is_well(&service);
}

#[test]
fn redis_is_reached_again_although_clients_take_all_the_files_they_may() {
    let mut redis = Redis::start(&[], &[]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "ulimit -n 300 && exec \"$0\"", env!("CARGO_BIN_EXE_service")]);
    let service = Service::run(shell, redis.port, &[("HEADER_TIMEOUT_MS", "60000")]);
    service.logs("fewer connections than MAX_CONNECTIONS");
    let mut first = Client::connect(service.port);
    eventually("ready", || first.get("/readyz").expect("an answer").status == 200);
    let _open: Vec<_> = (0..400).map(|_| Client::connect(service.port)).collect();
    redis.kill();
    eventually("not ready", || first.get("/readyz").expect("an answer").status == 503);
    redis.restart();
    eventually("ready again", || first.get("/readyz").expect("an answer").status == 200);
    assert_eq!(first.get("/").expect("an answer").count(), Some(1));
}
