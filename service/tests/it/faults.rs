//! Redis, or the way to it, fails under load: no greeting is given that is not counted, and none counts twice.

use super::load::{Load, Seen};
use super::proxy::{Harm, Proxy};
use super::*;

const BUDGET: Duration = Duration::from_secs(2);
/// What a client may wait longer, since tests, Redis, service and clients share few processors.
const SLACK: Duration = Duration::from_secs(1);

fn as_promised(mut seen: Seen, redis: &Redis, service: &mut Service) {
    assert_eq!(service.running.0.try_wait().expect("its state"), None, "it still runs");
    assert_eq!(seen.broken, Vec::<String>::new());
    assert_eq!(seen.refused, 0);
    assert!(seen.slowest < BUDGET + SLACK, "an answer took {:?}", seen.slowest);
    let greetings = seen.counts.len();
    seen.counts.sort_unstable();
    seen.counts.dedup();
    assert_eq!(seen.counts.len(), greetings, "a count was given twice");
    let (highest, hits) = (seen.counts.last().copied().unwrap_or_default(), redis.hits());
    assert!(highest <= hits, "greeted as number {highest}, but Redis has counted {hits}");
    // Each request was one hit at most, and none where there was nobody to send it to.
    let unsent = service.metric("hello_redis_errors_total{command=\"INCR\",kind=\"down\"}") as u64;
    let sent = greetings as u64 + seen.unavailable - unsent;
    assert!(hits <= sent, "{hits} hits of {sent} requests");
}

#[test]
fn redis_killed_and_restarted_twenty_times() {
    let mut redis = Redis::start(&[], &[]);
    let mut service = Service::ready(redis.port, &[]);
    let load = Load::on(service.port);
    for _ in 0..20 {
        load.goes_on_for(300);
        redis.kill();
        redis.restart();
    }
    load.goes_on_for(300);
    as_promised(load.stops(), &redis, &mut service);
}

#[test]
fn a_proxy_that_stalls_resets_and_cuts_within_replies() {
    let redis = Redis::start(&[], &[]);
    let proxy = Proxy::to(redis.port);
    let mut service = Service::ready(proxy.port, &[]);
    let load = Load::on(service.port);
    for harm in [Harm::CutWithin, Harm::Cut, Harm::CutWithin, Harm::Stall, Harm::CutWithin, Harm::Cut] {
        load.goes_on_for(300);
        let before = proxy.harmed();
        proxy.does(harm);
        eventually("harm is done", || proxy.harmed() > before);
        proxy.does(Harm::None);
    }
    load.goes_on_for(300);
    as_promised(load.stops(), &redis, &mut service);
}

#[test]
fn readiness_follows_redis_within_a_second() {
    let mut redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[]);
    let turns = |status: u16| {
        let since = Instant::now();
        eventually("readiness turns", || service.status("/readyz") == status);
        // A second is promised; the rest is for a machine that is busy with other tests.
        assert!(since.elapsed() < Duration::from_secs(1) + SLACK, "{status} after {:?}", since.elapsed());
    };
    redis.kill();
    turns(503);
    redis.restart();
    turns(200);
    redis.signal("STOP");
    turns(503);
    // Long enough for attempts that hang.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!((service.status("/healthz"), service.status("/readyz"), service.status("/")), (200, 503, 503));
    redis.signal("CONT");
    turns(200);
    let proxy = Proxy::to(redis.port);
    let service = Service::ready(proxy.port, &[]);
    proxy.does(Harm::Stall);
    eventually("not ready", || service.status("/readyz") == 503);
    std::thread::sleep(Duration::from_secs(1));
    proxy.does(Harm::None);
    // The connections that were begun until now hang for good.
    let since = Instant::now();
    service.becomes_ready();
    assert!(since.elapsed() < Duration::from_secs(1) + SLACK, "after {:?}", since.elapsed());
}
