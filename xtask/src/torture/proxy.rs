//! A line between airlock and a registry on which requests go wrong at random. Each request has a connection of its own (the
//! proxy asks both sides to close), so that each is as likely to be hit. Only bodies are corrupted: HTTP's heads have no sum,
//! and what says "404" instead of "200" is not told from the truth without TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::Failure;

/// Longest head that is looked at.
const HEAD: usize = 64 << 10;
/// How often a pump looks whether the other one has ended.
const BEAT: Duration = Duration::from_millis(100);
/// A silence that is longer than airlock waits for a byte.
const LONG: Duration = Duration::from_secs(33);

/// What happens to a body, and after how many of its bytes.
#[derive(Clone, Copy)]
enum Fault {
    Reset,
    Stall(Duration),
    Truncate,
    Corrupt(u8),
}

/// What happens to a request.
enum Fate {
    Fine,
    /// It gets this answer, and the registry never sees it.
    Status(&'static str),
    /// Something happens on its way to the registry.
    Request(Fault),
    /// Something happens to the answer.
    Answer(Fault),
}

struct Line {
    to: String,
    /// So many of a thousand requests go wrong.
    often: u32,
    /// One silence that is longer than airlock waits, left.
    long: AtomicBool,
    rng: Mutex<Rng>,
    hits: AtomicUsize,
    ended: AtomicBool,
}

/// The proxy; it takes no connections any more once it is dropped.
pub struct Proxy {
    /// Where to connect to instead.
    pub host: String,
    line: Arc<Line>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.ended.store(true, Ordering::Relaxed);
        // Wakes up who accepts.
        let _ = TcpStream::connect(&self.host);
    }
}

impl Proxy {
    /// Starts it.
    ///
    /// # Errors
    /// When there is no port to listen at.
    pub fn start(to: &str, often: u32, long: bool, seed: u64) -> Result<Self, Failure> {
        let failed = |e| format!("setting up a bad line: {e}");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let host = listener.local_addr().map_err(failed)?.to_string();
        let line = Arc::new(Line {
            to: to.into(),
            often,
            long: AtomicBool::new(long),
            rng: Mutex::new(Rng::with_seed(seed)),
            hits: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let taking = Arc::clone(&line);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if taking.ended.load(Ordering::Relaxed) {
                    return;
                }
                let line = Arc::clone(&taking);
                // A connection that fails is one more of what can happen.
                std::thread::spawn(move || drop(line.serve(near)));
            }
        });
        Ok(Self { host, line })
    }

    /// How many requests went wrong.
    pub fn hits(&self) -> usize {
        self.line.hits.load(Ordering::Relaxed)
    }
}

impl Line {
    fn fate(&self, head: &str) -> Fate {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        if rng.u32(..1000) >= self.often {
            return Fate::Fine;
        }
        let fault = match rng.u32(..8) {
            0 => return Fate::Status("429 Too Many Requests\r\nRetry-After: 1"),
            1 => return Fate::Status("500 Internal Server Error"),
            2 => return Fate::Status("503 Service Unavailable"),
            3 => Fault::Reset,
            4 if self.long.swap(false, Ordering::Relaxed) => Fault::Stall(LONG),
            4 => Fault::Stall(Duration::from_millis(rng.u64(50..1500))),
            5 => Fault::Truncate,
            _ => Fault::Corrupt(1 << rng.u8(..8)),
        };
        match length(head) {
            Some(1..) if rng.bool() => Fate::Request(fault),
            _ => Fate::Answer(fault),
        }
    }

    fn serve(&self, mut near: TcpStream) -> std::io::Result<()> {
        let (head, rest) = head(&mut near)?;
        let (request, answer) = match self.fate(&head) {
            Fate::Fine => (None, None),
            Fate::Status(status) => {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return refuse(&mut near, status);
            }
            Fate::Request(fault) => (Some((fault, self.place(&head))), None),
            Fate::Answer(fault) => (None, Some(fault)),
        };
        let mut far = TcpStream::connect(&self.to)?;
        far.write_all(closing(&head).as_bytes())?;
        let done = AtomicBool::new(false);
        let (mut near_too, mut far_too) = (near.try_clone()?, far.try_clone()?);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut pump = Pump {
                    from: &mut near_too,
                    to: &mut far_too,
                    is_answer: false,
                    done: &done,
                    fault: request,
                    at: 0,
                    hits: &self.hits,
                };
                pump.run(rest);
            });
            let answered = self::head(&mut far).and_then(|(answer_head, rest)| {
                // An answer to HEAD has a length, and no body: it can only be late, or get lost.
                let has_body = !head.starts_with("HEAD ") && length(&answer_head) != Some(0);
                if let (false, Some(fault)) = (has_body, answer) {
                    self.hits.fetch_add(1, Ordering::Relaxed);
                    match fault {
                        Fault::Stall(time) => wait(time, &done),
                        Fault::Reset | Fault::Truncate | Fault::Corrupt(_) => {
                            return lose(&near, &far, fault);
                        }
                    }
                }
                near.write_all(answer_head.as_bytes())?;
                let fault = answer.filter(|_| has_body).map(|fault| (fault, self.place(&answer_head)));
                let hits = &self.hits;
                let mut pump =
                    Pump { from: &mut far, to: &mut near, is_answer: true, done: &done, fault, at: 0, hits };
                pump.run(rest);
                Ok(())
            });
            done.store(true, Ordering::Relaxed);
            answered
        })
    }

    /// Where in a body.
    fn place(&self, head: &str) -> u64 {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        rng.u64(..length(head).unwrap_or(64 << 10).max(1))
    }
}

/// Forwards one direction.
struct Pump<'a> {
    from: &'a mut TcpStream,
    to: &'a mut TcpStream,
    /// Whether that is from the registry.
    is_answer: bool,
    done: &'a AtomicBool,
    fault: Option<(Fault, u64)>,
    at: u64,
    /// Counted when it happens.
    hits: &'a AtomicUsize,
}

impl Pump<'_> {
    /// Until one side ends, or the fault ends it.
    fn run(&mut self, first: Vec<u8>) {
        let _ = self.from.set_read_timeout(Some(BEAT));
        let mut piece = first;
        loop {
            if !piece.is_empty() && !self.pass(&mut piece) {
                break;
            }
            piece.resize(64 << 10, 0);
            match self.from.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => piece.truncate(length),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.done.load(Ordering::Relaxed) {
                        return;
                    }
                    piece.clear();
                }
                Err(_) => break,
            }
        }
        let _ = self.to.shutdown(Shutdown::Write);
    }

    /// Forwards some bytes; whether it goes on.
    fn pass(&mut self, piece: &mut [u8]) -> bool {
        let (start, end) = (self.at, self.at + piece.len() as u64);
        self.at = end;
        let Some((fault, place)) = self.fault.take_if(|(_, place)| (start..end).contains(place)) else {
            return self.to.write_all(piece).is_ok();
        };
        self.hits.fetch_add(1, Ordering::Relaxed);
        let (before, after) = piece.split_at_mut((place - start) as usize);
        match fault {
            Fault::Corrupt(bit) => {
                after[0] ^= bit;
                self.to.write_all(piece).is_ok()
            }
            Fault::Stall(time) => {
                let whole = self.to.write_all(before).is_ok();
                wait(time, self.done);
                whole && self.to.write_all(after).is_ok()
            }
            Fault::Truncate | Fault::Reset => {
                let _ = self.to.write_all(before);
                let (near, far) = match self.is_answer {
                    true => (&*self.to, &*self.from),
                    false => (&*self.from, &*self.to),
                };
                let _ = lose(near, far, fault);
                self.done.store(true, Ordering::Relaxed);
                false
            }
        }
    }
}

/// Ends a connection, by a reset or not.
fn lose(near: &TcpStream, far: &TcpStream, fault: Fault) -> std::io::Result<()> {
    let ended = match fault {
        // The last handle that is closed sends RST.
        Fault::Reset => socket2::SockRef::from(near).set_linger(Some(Duration::ZERO)),
        _ => near.shutdown(Shutdown::Both),
    };
    // Whoever still waits for the registry is to end.
    far.shutdown(Shutdown::Both).and(ended)
}

fn wait(time: Duration, done: &AtomicBool) {
    let end = Instant::now() + time;
    while Instant::now() < end && !done.load(Ordering::Relaxed) {
        std::thread::sleep(BEAT.min(end.saturating_duration_since(Instant::now())));
    }
}

/// A head, and what came behind it.
fn head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let (mut read, mut piece) = (vec![], [0; 4096]);
    loop {
        if let Some(end) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let rest = read.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&read).into_owned(), rest));
        }
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            // Somebody tries whether this is TLS, and waits for a no.
            _ if read.is_empty() && !piece[0].is_ascii_uppercase() => {
                return Err(ErrorKind::InvalidData.into());
            }
            length if read.len() + length <= HEAD => read.extend(&piece[..length]),
            _ => return Err(ErrorKind::InvalidData.into()),
        }
    }
}

/// The same head, and that the connection is closed behind it.
fn closing(head: &str) -> String {
    head.replacen("\r\n", "\r\nConnection: close\r\n", 1)
}

/// What a head says that its body has, in bytes.
fn length(head: &str) -> Option<u64> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    })
}

/// Answers, and lets the client finish what it sends, or a moment pass: a reset would take the answer with it.
fn refuse(near: &mut TcpStream, status: &str) -> std::io::Result<()> {
    near.write_all(
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    near.shutdown(Shutdown::Write)?;
    near.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut piece = [0; 64 << 10];
    while let Ok(1..) = near.read(&mut piece) {}
    Ok(())
}
