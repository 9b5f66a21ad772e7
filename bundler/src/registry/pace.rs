//! How fast a registry, and the line, may be used: what the user allows, and what the registry asks for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

/// Held by everything that a client does.
pub(super) struct Pace {
    /// Bytes a second, all transfers together.
    limit: Option<u64>,
    /// When the line is free for the next bytes.
    free: Mutex<Option<Instant>>,
    /// Until when an origin asked to be left alone.
    closed: Mutex<HashMap<String, Instant>>,
}

impl Pace {
    pub fn new(limit: Option<u64>) -> Self {
        Self { limit, free: Mutex::default(), closed: Mutex::default() }
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        if let Some(limit) = self.limit {
            tokio::time::sleep_until(self.slot(limit, bytes, Instant::now())).await;
        }
    }

    /// When so many bytes have passed: those of others that came before go first, and time that nobody used is not saved up.
    fn slot(&self, limit: u64, bytes: usize, now: Instant) -> Instant {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let from = free.map_or(now, |free| free.max(now));
        let until = from + Duration::from_secs_f64(bytes as f64 / limit.max(1) as f64);
        *free = Some(until);
        until
    }

    /// Waits until a registry may be asked again.
    pub async fn turn(&self, url: &Url) {
        if let Some(until) = self.opens(url) {
            tokio::time::sleep_until(until).await;
        }
    }

    fn opens(&self, url: &Url) -> Option<Instant> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner).get(&origin(url)).copied()
    }

    /// A registry asks to be left alone for so long.
    pub fn close(&self, url: &Url, wait: Duration) {
        let until = Instant::now() + wait;
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.entry(origin(url)).and_modify(|there| *there = until.max(*there)).or_insert(until);
    }
}

fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_at_the_limit_whoever_sends_them() {
        let (pace, start) = (Pace::new(Some(1000)), Instant::now());
        let passed = |bytes, seconds| {
            let slot = pace.slot(1000, bytes, start + Duration::from_secs(seconds));
            (slot - start).as_millis()
        };
        assert_eq!([passed(500, 0), passed(250, 0), passed(250, 0)], [500, 750, 1000]);
        assert_eq!(passed(1000, 6), 7000, "what was not used is not saved up");
    }

    #[test]
    fn a_registry_is_left_alone_and_others_are_not() {
        let url = |text: &str| -> Url { text.parse().expect("a URL") };
        let pace = Pace::new(None);
        let before = Instant::now() + Duration::from_secs(9);
        pace.close(&url("https://a.example/v2/"), Duration::from_secs(9));
        pace.close(&url("https://a.example/v2/x"), Duration::from_secs(2));
        assert_eq!(pace.opens(&url("https://b.example/v2/")), None);
        assert!(pace.opens(&url("https://a.example/v2/y")).is_some_and(|opens| opens >= before));
    }
}
