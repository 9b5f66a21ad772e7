//! What is answered besides the greeting: metrics, trace context, log.

use super::*;

#[test]
fn metrics_count_requests_and_redis() {
    let port = free_port();
    let service = Service::start(port, &[]);
    assert_eq!(service.status("/"), 503);
    assert_eq!(service.metric("hello_redis_up"), 0.0);
    let _redis = Redis::on(port, &[], &[]);
    service.becomes_ready();
    assert_eq!((service.status("/"), service.status("/"), service.status("/nowhere")), (200, 200, 404));
    let answer = service.get("/metrics");
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for (series, value) in [
        (concat!("hello_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}"), 1.0),
        ("hello_http_requests_total{route=\"/\",status=\"200\"}", 2.0),
        ("hello_http_requests_total{route=\"/\",status=\"503\"}", 1.0),
        ("hello_http_requests_total{route=\"other\",status=\"404\"}", 1.0),
        ("hello_http_request_duration_seconds_count{route=\"/\"}", 3.0),
        ("hello_redis_errors_total{command=\"INCR\",kind=\"down\"}", 1.0),
        ("hello_redis_round_trip_seconds_count{command=\"INCR\"}", 2.0),
        ("hello_redis_connects_total", 1.0),
        ("hello_redis_up", 1.0),
        // The request that asks.
        ("hello_http_requests_in_flight", 1.0),
        ("hello_connections_refused_total", 0.0),
    ] {
        assert_eq!(service.metric(series), value, "{series}");
    }
    assert!(service.metric("hello_redis_errors_total{command=\"CONNECT\",kind=\"io\"}") >= 1.0);
    assert!(service.metric("process_resident_memory_bytes") > 100_000.0);
    assert!(service.metric("process_open_fds") > 3.0);
    assert!(service.metric("process_start_time_seconds") > 1.7e9);
}

#[test]
fn trace_and_request_id_come_back_and_stand_in_the_log() {
    let service = Service::start(free_port(), &[("RUST_LOG", "service=debug")]);
    let mut client = Client::connect(service.port);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let answer = client.ask(&format!(
        "GET /healthz HTTP/1.1\r\nHost: x\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\nx-request-id: order-7\r\n\r\n"
    ));
    let answer = answer.expect("an answer");
    let parent = answer.header("traceparent").expect("a trace");
    assert!(parent.starts_with(&format!("00-{trace}-")) && parent.ends_with("-01"), "{parent}");
    assert!(!parent.contains("00f067aa0ba902b7"), "a span of its own: {parent}");
    assert_eq!(answer.header("x-request-id"), Some("order-7"));
    service.logs("\"request_id\":\"order-7\"");
    let log = service.log();
    let line = log.lines().find(|line| line.contains("order-7")).expect("its line");
    for part in [trace, &parent[36..52], "\"path\":\"/healthz\"", "\"status\":200"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    let made = client.get("/healthz").expect("an answer");
    let trace = &made.header("traceparent").expect("a trace")[3..35];
    assert_eq!(made.header("x-request-id"), Some(trace));
}

#[test]
fn other_paths_and_methods_are_refused_with_a_problem() {
    let service = Service::start(free_port(), &[]);
    let mut client = Client::connect(service.port);
    for (request, status, allow) in [
        ("GET /nowhere", 404, None),
        ("POST /nowhere", 404, None),
        ("POST /", 405, Some("GET, HEAD")),
        ("DELETE /metrics", 405, Some("GET, HEAD")),
        ("OPTIONS /healthz", 405, Some("GET, HEAD")),
        ("BREW /readyz", 405, Some("GET, HEAD")),
    ] {
        let answer = client.ask(&format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"));
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.header("allow")), (status, allow), "{request}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request}");
        assert!(answer.body.contains(&format!("\"status\":{status}")), "{answer:?}");
    }
}
