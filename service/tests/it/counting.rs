//! Every greeting is one hit, and what happens when Redis is not there.

use super::*;

#[test]
fn concurrent_hits_are_each_counted_once() {
    let redis = Redis::with_password("secret");
    let service = Service::ready(redis.port, &[("REDIS_PASSWORD", "secret")]);
    let mut seen: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| (0..25).map(|_| service.count()).collect::<Vec<_>>())).collect();
        workers.into_iter().flat_map(|w| w.join().expect("worker")).collect()
    });
    seen.sort_unstable();
    assert_eq!(seen, (1..=200).collect::<Vec<u64>>());
}

#[test]
fn the_first_request_waits_for_the_first_connection() {
    let redis = Redis::start(&[], &[]);
    let service = Service::start(redis.port, &[]);
    assert_eq!(service.count(), 1);
}

#[test]
fn redis_away_is_said_at_once_and_its_return_is_noticed() {
    let port = free_port();
    let service = Service::start(port, &[("REQUEST_BUDGET_MS", "20000")]);
    assert_eq!((service.status("/healthz"), service.status("/readyz")), (200, 503));
    let asked = Instant::now();
    let answer = service.get("/");
    // No request waits out its budget for a connection that is known to be away.
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!((answer.status, answer.header("content-type")), (503, Some("application/problem+json")));
    assert!(answer.body.contains("\"status\":503"), "{answer:?}");
    let redis = Redis::on(port, &[], &[]);
    service.becomes_ready();
    assert_eq!((service.count(), redis.hits()), (1, 1));
}

#[test]
fn a_look_is_no_hit() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[]);
    let mut client = Client::connect(service.port);
    client
        .stream
        .write_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    let (head, greeting) = (client.answer().expect("an answer"), client.answer().expect("an answer"));
    assert_eq!((head.status, head.body.as_str(), greeting.count()), (200, "", Some(1)));
}
