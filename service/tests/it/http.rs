//! What is answered besides the greeting.

use super::*;

#[test]
fn metrics_count_requests_by_route_and_status_and_redis_errors() {
    let redis_port = free_port();
    let (_service, port) = start(redis_port, "secret");
    assert_eq!(get(port, "/").0, 503);
    let _redis = redis(redis_port, "secret");
    eventually("ready", || get(port, "/readyz").0 == 200);
    assert_eq!((get(port, "/").0, get(port, "/").0, get(port, "/nowhere").0), (200, 200, 404));
    let (status, answer) = get(port, "/metrics");
    assert_eq!(status, 200);
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    for line in [
        concat!("hello_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        "hello_http_requests_total{route=\"/\",status=\"200\"} 2",
        "hello_http_requests_total{route=\"/\",status=\"503\"} 1",
        "hello_http_requests_total{route=\"other\",status=\"404\"} 1",
        "hello_redis_errors_total{command=\"INCR\"} 1",
    ] {
        assert!(answer.lines().any(|l| l == line), "{line} in {answer}");
    }
}
