//! The parts: Redis, the service, and a client.

use super::*;
use std::process::Child;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A process that is ended when the test is over, however it ends.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.0.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

/// A port that nobody listens at, never given twice. It is below those that the kernel gives to clients: with thousands of
/// them, one of those would often be taken before a server has it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % 20_000).expect("a small number");
    loop {
        let port = 10_000 + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A Redis that writes each command to disk before it answers, in a directory that outlives the process.
pub struct Redis {
    pub port: u16,
    pub running: Option<Running>,
    args: Vec<String>,
    cli: Vec<String>,
    _directory: TempDir,
}

impl Redis {
    /// Starts it on a port of its own with `args`; `cli` is what redis-cli needs beside the port.
    pub fn start(args: &[&str], cli: &[&str]) -> Self {
        Self::on(free_port(), args, cli)
    }

    pub fn on(port: u16, args: &[&str], cli: &[&str]) -> Self {
        let directory = TempDir::new().expect("a directory");
        let dir = directory.path().to_str().expect("a path");
        let common = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let mut all: Vec<String> = common.iter().chain(&["--dir", dir]).map(|a| (*a).to_owned()).collect();
        // With TLS the port is given by the caller.
        if !args.contains(&"--tls-port") {
            all.extend(["--port".into(), port.to_string()]);
        }
        all.extend(args.iter().map(|a| a.replace("PORT", &port.to_string())));
        let number = port.to_string();
        let cli = ["-p", &number, "--no-auth-warning"].iter().chain(cli).map(|a| (*a).to_owned()).collect();
        let mut redis = Self { port, running: None, args: all, cli, _directory: directory };
        redis.restart();
        redis
    }

    /// With a password for all.
    pub fn with_password(password: &str) -> Self {
        Self::start(&["--requirepass", password], &["-a", password])
    }

    /// Starts it (again) with the data that it left, and waits until it listens.
    pub fn restart(&mut self) {
        self.running = None;
        let child = Command::new("redis-server").args(&self.args).stdout(Stdio::null()).spawn();
        let missing = "redis-server must be installed (Debian: apt-get install redis-server)";
        self.running = Some(Running(child.expect(missing)));
        let port = self.port;
        eventually("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        self.running.as_ref().expect("it runs").signal(name);
    }

    /// What redis-cli says.
    pub fn cli(&self, args: &[&str]) -> String {
        let output = Command::new("redis-cli").args(&self.cli).args(args).output();
        let missing = "redis-cli must be installed (Debian: apt-get install redis-tools)";
        String::from_utf8_lossy(&output.expect(missing).stdout).trim().to_owned()
    }

    /// The counter, once Redis has read its data.
    pub fn hits(&self) -> u64 {
        let mut hits = None;
        eventually("redis knows the counter", || {
            let said = self.cli(&["get", "hits"]);
            hits = if said.is_empty() { Some(0) } else { said.parse().ok() };
            hits.is_some()
        });
        hits.expect("a number")
    }
}

/// The service's environment is given whole: nothing of the caller's leaks in.
pub fn service(settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_service"));
    command.env_clear().envs(settings.iter().copied()).stdout(Stdio::piped());
    command
}

/// Adds what is said to `log`.
fn keep(mut output: impl Read + Send + 'static, log: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            log.lock().expect("the log").push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
}

impl Drop for Service {
    /// No task of it may have panicked, whatever the test was about.
    fn drop(&mut self) {
        let log = self.log();
        assert!(std::thread::panicking() || !log.contains("panicked"), "{log}");
    }
}

/// The service, with what it logs.
pub struct Service {
    pub running: Running,
    pub port: u16,
    log: Arc<Mutex<String>>,
}

impl Service {
    /// Starts it on a port of its own, for a Redis on loopback at `redis_port`; `settings` come in addition.
    pub fn start(redis_port: u16, settings: &[(&str, &str)]) -> Self {
        Self::run(service(settings), redis_port, settings)
    }

    /// The same with a command of the caller's, which runs it.
    pub fn run(mut command: Command, redis_port: u16, settings: &[(&str, &str)]) -> Self {
        let port = free_port();
        command
            .env_clear()
            .env("REDIS_HOST", "127.0.0.1")
            .env("REDIS_PORT", redis_port.to_string())
            .env("BIND_PORT", port.to_string())
            .envs(settings.iter().copied());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut running = Running(child.expect("the service starts"));
        let log = Arc::new(Mutex::new(String::new()));
        keep(running.0.stdout.take().expect("its output"), log.clone());
        keep(running.0.stderr.take().expect("its errors"), log.clone());
        eventually("the service listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { running, port, log }
    }

    /// The same, once it is ready.
    pub fn ready(redis_port: u16, settings: &[(&str, &str)]) -> Self {
        let service = Self::start(redis_port, settings);
        service.becomes_ready();
        service
    }

    pub fn becomes_ready(&self) {
        eventually(&format!("ready; the log is\n{}", self.log()), || self.status("/readyz") == 200);
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    pub fn logs(&self, text: &str) {
        eventually(&format!("{text:?} in\n{}", self.log()), || self.log().contains(text));
    }

    pub fn get(&self, path: &str) -> Answer {
        let mut client = Client::connect(self.port);
        client
            .ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
            .expect("an answer")
    }

    pub fn status(&self, path: &str) -> u16 {
        self.get(path).status
    }

    /// The count in a greeting that must be given.
    pub fn count(&self) -> u64 {
        let answer = self.get("/");
        let count = answer.count();
        assert!(count.is_some(), "no greeting: {answer:?}; the log is\n{}", self.log());
        count.expect("a count")
    }

    /// The value of one series; it must be there.
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        assert!(value.is_some(), "{series} in {text}");
        value.expect("its value").parse().expect("a number")
    }
}

/// A connection that is kept.
pub struct Client {
    pub stream: TcpStream,
    rest: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// As sent, names in lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The count, if this is a greeting.
    pub fn count(&self) -> Option<u64> {
        let count = self.body.strip_prefix("Hello from Redis! I have been seen ")?;
        (self.status == 200).then(|| count.strip_suffix(" times.\n")?.parse().ok())?
    }
}

impl Client {
    pub fn connect(port: u16) -> Self {
        Self::try_connect(port).expect("connect")
    }

    pub fn try_connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        // Longer than anything that the service may take, so that a test ends.
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Sends a request as it stands, and reads its answer.
    pub fn ask(&mut self, request: &str) -> std::io::Result<Answer> {
        self.stream.write_all(request.as_bytes())?;
        self.answer()
    }

    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> std::io::Result<Answer> {
        let mut end = None;
        while end.is_none() {
            end = self.rest.windows(4).position(|w| w == b"\r\n\r\n");
            if end.is_none() {
                self.more()?;
            }
        }
        let body = end.expect("the end of the head") + 4;
        let head = String::from_utf8_lossy(&self.rest[..body]).into_owned();
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |l| l.parse().expect("a length"));
        while self.rest.len() < body + length {
            self.more()?;
        }
        answer.body = String::from_utf8_lossy(&self.rest[body..body + length]).into_owned();
        self.rest.drain(..body + length);
        Ok(answer)
    }

    fn more(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer)? {
            0 if self.rest.is_empty() => Err(std::io::ErrorKind::UnexpectedEof.into()),
            0 => Err(std::io::Error::other("the connection ended within an answer")),
            n => {
                self.rest.extend_from_slice(&buffer[..n]);
                Ok(())
            }
        }
    }
}
