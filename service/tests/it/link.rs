//! The connection to Redis goes wrong, and what Redis refuses.

use super::proxy::{Harm, Proxy};
use super::*;

#[test]
fn a_hit_whose_answer_is_lost_is_counted_once_and_said_to_have_failed() {
    let redis = Redis::start(&[], &[]);
    let proxy = Proxy::to(redis.port);
    let service = Service::ready(proxy.port, &[("REQUEST_BUDGET_MS", "300")]);
    let mut counted = 0;
    for harm in [Harm::Cut, Harm::CutWithin, Harm::Stall] {
        assert_eq!(service.count(), counted + 1);
        proxy.does(harm);
        assert_eq!(service.status("/"), 503, "{harm:?}");
        proxy.does(Harm::None);
        service.becomes_ready();
        // It may have met a connection that a PING had found broken already, and then was not sent.
        let hits = redis.hits();
        assert!((counted + 1..=counted + 2).contains(&hits), "{harm:?}: {hits}");
        counted = hits;
    }
}

#[test]
fn a_password_that_becomes_right_is_accepted_without_a_restart() {
    let redis = Redis::with_password("old");
    let service = Service::start(redis.port, &[("REDIS_PASSWORD", "new")]);
    service.logs("user or password are not accepted");
    assert_eq!((service.status("/"), service.status("/readyz")), (503, 503));
    assert_eq!(redis.cli(&["config", "set", "requirepass", "new"]), "OK");
    service.becomes_ready();
    assert_eq!(service.count(), 1);
}

#[test]
fn a_refusal_by_redis_is_no_reason_for_a_new_connection() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[]);
    assert_eq!(service.count(), 1);
    redis.cli(&["set", "hits", "many"]);
    for _ in 0..5 {
        assert_eq!(service.status("/"), 503);
    }
    redis.cli(&["del", "hits"]);
    assert_eq!(service.count(), 1);
    assert_eq!(service.metric("hello_redis_connects_total"), 1.0);
    assert_eq!(service.metric("hello_redis_errors_total{command=\"INCR\",kind=\"server\"}"), 5.0);
}

#[test]
fn a_master_that_becomes_a_replica_is_left_until_it_is_one_again() {
    let redis = Redis::start(&[], &[]);
    let service = Service::ready(redis.port, &[]);
    assert_eq!(redis.cli(&["replicaof", "127.0.0.1", &free_port().to_string()]), "OK");
    assert_eq!(service.status("/"), 503);
    service.logs("is a replica, which can't count");
    assert_eq!(service.status("/readyz"), 503);
    assert_eq!(redis.cli(&["replicaof", "no", "one"]), "OK");
    service.becomes_ready();
    assert_eq!(service.count(), 1);
}
