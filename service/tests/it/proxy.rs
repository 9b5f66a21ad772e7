//! A proxy to Redis that does harm.

use super::*;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};

/// What it does with Redis' answers. Requests always get through: a command whose answer is lost has been carried out.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub enum Harm {
    None,
    /// They never arrive, and the connection is closed.
    Cut,
    /// Half of what there is arrives, and the connection is reset.
    CutWithin,
    /// They never arrive, and the connection stays open.
    Stall,
}

pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    harmed: Arc<AtomicU64>,
}

impl Proxy {
    pub fn to(redis_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let proxy = Self { port, mode: Arc::default(), harmed: Arc::default() };
        let (mode, harmed) = (proxy.mode.clone(), proxy.harmed.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, mode, harmed) = (client.expect("a connection"), mode.clone(), harmed.clone());
                let Ok(redis) = TcpStream::connect(("127.0.0.1", redis_port)) else { continue };
                let (mut requests, mut to) =
                    (client.try_clone().expect("a handle"), redis.try_clone().expect("a handle"));
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut requests, &mut to);
                    let _ = to.shutdown(Shutdown::Both);
                });
                std::thread::spawn(move || answers(redis, client, &mode, &harmed));
            }
        });
        proxy
    }

    /// Connections that harm was done to, so far.
    pub fn harmed(&self) -> u64 {
        self.harmed.load(SeqCst)
    }

    pub fn does(&self, harm: Harm) {
        self.mode.store(harm as u8, SeqCst);
    }
}

fn answers(mut redis: TcpStream, mut client: TcpStream, mode: &AtomicU8, harmed: &AtomicU64) {
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = redis.read(&mut buffer) {
        let mode = mode.load(SeqCst);
        if mode == Harm::None as u8 {
            if client.write_all(&buffer[..n]).is_err() {
                break;
            }
            continue;
        }
        harmed.fetch_add(1, SeqCst);
        if mode == Harm::Stall as u8 {
            // This connection is lost for good, whatever the mode is later; it ends when the client gives up.
            while matches!(redis.read(&mut buffer), Ok(1..)) {}
        } else if mode == Harm::CutWithin as u8 {
            let _ = client.write_all(&buffer[..n / 2]);
            // What Redis still says is thrown away; commands that wait unread here make the close a reset.
        }
        break;
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = redis.shutdown(Shutdown::Both);
}
