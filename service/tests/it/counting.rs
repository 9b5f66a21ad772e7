//! Every greeting is one hit, and what happens when Redis is not there.

use super::*;

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
