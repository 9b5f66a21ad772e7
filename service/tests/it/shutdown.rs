//! The end: whoever was accepted is answered.

use super::load::Load;
use super::proxy::{Harm, Proxy};
use super::*;

/// Sends SIGTERM; the exit code, and how long it took.
fn ended(service: &mut Service) -> (Option<i32>, Duration) {
    let since = Instant::now();
    service.running.signal("TERM");
    let code = service.running.0.wait().expect("its end").code();
    (code, since.elapsed())
}

#[test]
fn under_load_every_request_is_answered() {
    let redis = Redis::start(&[], &[]);
    for _ in 0..5 {
        let mut service = Service::ready(redis.port, &[]);
        let before = redis.hits();
        let load = Load::on(service.port);
        load.goes_on_for(500);
        let (code, time) = ended(&mut service);
        let seen = load.ends();
        assert_eq!(seen.broken, Vec::<String>::new());
        assert_eq!((code, seen.refused), (Some(0), 64));
        assert_eq!(seen.unavailable, 0);
        // Every hit has reached its client, too: none was begun and given up.
        assert_eq!(redis.hits() - before, seen.counts.len() as u64);
        assert!(time < Duration::from_secs(10), "{time:?}");
        assert!(service.log().contains("\"stopped\""), "{}", service.log());
    }
}

#[test]
fn connections_that_wait_are_closed_and_one_that_asks_is_answered_first() {
    let redis = Redis::start(&[], &[]);
    let mut service = Service::ready(redis.port, &[]);
    let mut idle = Client::connect(service.port);
    assert_eq!(idle.get("/").expect("an answer").count(), Some(1));
    let mut fresh = Client::connect(service.port);
    let mut late = Client::connect(service.port);
    assert_eq!(late.get("/readyz").expect("an answer").status, 200);
    service.running.signal("TERM");
    service.logs("\"stopping\"");
    let answer = late.get("/readyz").expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    for client in [&mut idle, &mut fresh] {
        assert_eq!(client.stream.read(&mut [0]).expect("an end, not a reset"), 0);
    }
    drop((idle, fresh, late));
    assert_eq!(service.running.0.wait().expect("its end").code(), Some(0));
}

#[test]
fn a_request_that_waits_for_redis_is_waited_for_within_the_grace_time() {
    let redis = Redis::start(&[], &[]);
    let proxy = Proxy::to(redis.port);
    for (grace, end) in [("5000", "\"stopped\""), ("100", "requests still open")] {
        let settings = [("SHUTDOWN_GRACE_MS", grace), ("REQUEST_BUDGET_MS", "1500")];
        proxy.does(Harm::None);
        let mut service = Service::ready(proxy.port, &settings);
        let harmed = proxy.harmed();
        proxy.does(Harm::Stall);
        let mut client = Client::connect(service.port);
        client.stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        eventually("the hit hangs", || proxy.harmed() > harmed);
        // What hung first may have been a ping.
        std::thread::sleep(Duration::from_millis(200));
        let (code, _) = ended(&mut service);
        assert_eq!(code, Some(0));
        service.logs(end);
        assert_eq!(client.answer().map(|a| a.status).ok(), (grace == "5000").then_some(503));
    }
}
