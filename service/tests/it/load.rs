//! Many clients at once, and what they saw.

use super::*;
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

/// Clients that ask for greetings, each over a connection that it keeps, until they are stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    greeted: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Seen>>,
}

/// What clients saw.
#[derive(Default)]
pub struct Seen {
    /// The count in each greeting.
    pub counts: Vec<u64>,
    /// Answers with status 503.
    pub unavailable: u64,
    /// The longest that an answer took.
    pub slowest: Duration,
    /// Connections that the service refused because it no longer listens.
    pub refused: u64,
    /// Anything else, in words.
    pub broken: Vec<String>,
}

impl Load {
    /// 64 clients.
    pub fn on(port: u16) -> Self {
        let (stop, greeted) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |_| {
            let (stop, greeted) = (stop.clone(), greeted.clone());
            std::thread::spawn(move || ask(port, &stop, &greeted))
        };
        let clients = (0..64).map(client).collect();
        Self { stop, greeted, clients }
    }

    /// Waits for `n` greetings more.
    pub fn goes_on_for(&self, n: u64) {
        let target = self.greeted.load(Relaxed) + n;
        eventually("more greetings", || self.greeted.load(Relaxed) >= target);
    }

    /// Waits until every client has come to an end by itself.
    pub fn ends(self) -> Seen {
        let mut all = Seen::default();
        for client in self.clients {
            let seen = client.join().expect("a client");
            all.counts.extend(seen.counts);
            all.unavailable += seen.unavailable;
            all.refused += seen.refused;
            all.slowest = all.slowest.max(seen.slowest);
            all.broken.extend(seen.broken);
        }
        all
    }

    /// Tells the clients to stop.
    pub fn stops(self) -> Seen {
        self.stop.store(true, Relaxed);
        self.ends()
    }
}

fn ask(port: u16, stop: &AtomicBool, greeted: &AtomicU64) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Relaxed) {
        let mut client = match Client::try_connect(port) {
            Ok(client) => client,
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                seen.refused += 1;
                break;
            }
            Err(e) => {
                seen.broken.push(format!("connecting: {e}"));
                break;
            }
        };
        while !stop.load(Relaxed) {
            let asked = Instant::now();
            let answer = client.get("/");
            seen.slowest = seen.slowest.max(asked.elapsed());
            let answer = match answer {
                Ok(answer) => answer,
                Err(e) => {
                    seen.broken.push(format!("after {:?}: {e}", asked.elapsed()));
                    break;
                }
            };
            match (answer.status, answer.count()) {
                (200, Some(count)) => {
                    seen.counts.push(count);
                    greeted.fetch_add(1, Relaxed);
                }
                (503, None) => {
                    seen.unavailable += 1;
                    // A client that does not wait would only keep the processors from the others.
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => seen.broken.push(format!("{answer:?}")),
            }
            if answer.header("connection") == Some("close") {
                break;
            }
        }
    }
    seen
}
