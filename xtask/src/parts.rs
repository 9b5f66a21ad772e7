//! Real parts that run beside the tests or the demo, and end with them however those end.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sh::{as_root, command, output, run, shown, text};
use crate::{Failure, Outcome};

/// How long a part may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// What names of ours begin with; our process ID follows.
const PREFIX: &str = "airlock-xtask-";

/// The name, if it is of a run that was ended before it could clean up.
fn left_over(line: &str) -> Option<&str> {
    let name = line.split_whitespace().next()?;
    let pid: u32 = name.strip_prefix(PREFIX)?.parse().ok()?;
    (!Path::new("/proc").join(pid.to_string()).exists()).then_some(name)
}

/// A network namespace with nothing but loopback in it.
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one.
    ///
    /// # Errors
    /// When the kernel or our rights do not allow it.
    pub fn create() -> Result<Self, Failure> {
        let name = format!("{PREFIX}{}", std::process::id());
        for old in output(&mut command("ip", &["netns", "list"]))?.lines().filter_map(left_over) {
            run(&mut as_root("ip", &["netns", "delete", old]))?;
        }
        run(&mut as_root("ip", &["netns", "add", &name]))?;
        let netns = Self { name };
        run(&mut as_root("ip", &["-n", &netns.name, "link", "set", "lo", "up"]))?;
        Ok(netns)
    }

    /// The file that names it.
    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = as_root("ip", &["netns", "delete", &self.name]).output();
    }
}

/// Where a program runs.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// On this machine.
    Here,
    /// In a network namespace.
    In(&'a Netns),
}

impl Place<'_> {
    /// A program with arguments, to run there. `nsenter` and not `ip netns exec`, which hides the cgroups from what it
    /// starts.
    pub fn command(self, program: &str, args: &[&str]) -> Command {
        match self {
            Self::Here => command(program, args),
            Self::In(netns) => {
                let net = format!("--net={}", netns.path());
                as_root("nsenter", &[&[&net, "--", program], args].concat())
            }
        }
    }

    /// A port that was free a moment ago. In a namespace of ours every port is free, but two parts want two.
    pub fn free_port(self) -> Result<u16, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        listener.map(|address| address.port()).map_err(|e| format!("finding a free port: {e}"))
    }

    /// Waits until something answers HTTP at an address.
    fn wait_for(self, url: &str, part: &mut Running) -> Outcome {
        part.until(&format!("something answers at {url}"), || {
            let probe =
                self.command("curl", &["--silent", "--noproxy", "*", "--output", "/dev/null", url]).status();
            probe.is_ok_and(|status| status.success())
        })
    }
}

/// A process that ends with this one: when it is dropped, and by the kernel's hand when we are killed.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program; what it prints goes to `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &Command, log: &Path) -> Result<Self, Failure> {
        let file = fs::File::create(log).map_err(|e| format!("making {}: {e}", log.display()))?;
        let again = file.try_clone().map_err(|e| format!("opening {}: {e}", log.display()))?;
        let mut with_parent = Command::new("setpriv");
        with_parent.args(["--pdeathsig", "TERM", "--"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => with_parent.env(name, value),
                None => with_parent.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            with_parent.current_dir(dir);
        }
        let child = with_parent.stdin(Stdio::null()).stdout(file).stderr(again).spawn();
        let child = child.map_err(|e| format!("{}: could not be started: {e}", shown(command)))?;
        Ok(Self { child, log: log.into() })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something holds that this process is to bring about.
    ///
    /// # Errors
    /// When the process ends first, or it takes too long.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) -> Outcome {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            self.still_runs()?;
            if Instant::now() > end {
                return Err(format!("not in time: {what}\n{}", self.log_tail()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until it listens at a port of loopback.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn listens(&mut self, port: u16) -> Outcome {
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        self.until(&format!("something listens on port {port}"), listens)
    }

    /// # Errors
    /// When it has ended, with what it said last.
    pub fn still_runs(&mut self) -> Outcome {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(format!("a part ended too early ({status}):\n{}", self.log_tail())),
            Err(error) => Err(format!("asking after a part: {error}")),
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        let _ = as_root("kill", &["-TERM", &pid]).output();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = as_root("kill", &["-KILL", &pid]).output();
        let _ = self.child.wait();
    }
}

/// CNCF distribution's registry, on loopback and without a login.
pub struct Registry {
    process: Running,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Registry {
    /// Starts one that keeps its content below `dir`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(place: Place, dir: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let host = format!("127.0.0.1:{}", place.free_port()?);
        let config = dir.join("config.yml");
        let content = format!(
            "version: 0.1\nlog: {{level: warn}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{host}\"}}\n",
            dir.join("data").display()
        );
        fs::write(&config, content).map_err(|e| format!("writing {}: {e}", config.display()))?;
        let serve = place.command("docker-registry", &["serve", text(&config)?]);
        let mut process = Running::start(&serve, &dir.join("log"))?;
        place.wait_for(&format!("http://{host}/v2/"), &mut process)?;
        Ok(Self { process, host })
    }

    /// Its process ID.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How many requests it has answered, as its log has them.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn requests(&self) -> Result<usize, Failure> {
        let log = &self.process.log;
        let told = fs::read_to_string(log).map_err(|e| format!("reading {}: {e}", log.display()))?;
        Ok(told.lines().filter(|line| line.contains(" HTTP/1.1\" ")).count())
    }
}

/// A Redis on loopback that keeps nothing.
pub struct Redis {
    _process: Running,
    /// Its port.
    pub port: u16,
}

impl Redis {
    /// Starts one; its log goes to `log`.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(log: &Path) -> Result<Self, Failure> {
        let port = Place::Here.free_port()?;
        let args = ["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string()];
        let mut process = Running::start(&command("redis-server", &args), log)?;
        process.listens(port)?;
        Ok(Self { _process: process, port })
    }

    /// The service's settings for it, to listen at `port` on loopback.
    pub fn settings(&self, port: u16) -> [(&'static str, String); 4] {
        let here = "127.0.0.1".to_owned();
        [
            ("BIND_ADDRESS", here.clone()),
            ("BIND_PORT", port.to_string()),
            ("REDIS_HOST", here),
            ("REDIS_PORT", self.port.to_string()),
        ]
    }
}

/// Waits until the service greets at a port, looking often enough to take its time by.
///
/// # Errors
/// When it does not within `limit`.
pub fn greeting(port: u16, limit: Duration) -> Outcome {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port))
            && stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").is_ok()
            && stream.read_to_string(&mut answer).is_ok()
            && answer.starts_with("HTTP/1.1 200")
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Err(format!("no greeting at 127.0.0.1:{port}"))
}

/// From starting the service's program to its first greeting; it is ended then.
///
/// # Errors
/// When it can't be started, or does not greet within `limit`.
pub fn start_to_greeting(program: &Path, redis: &Redis, limit: Duration) -> Result<Duration, Failure> {
    let port = Place::Here.free_port()?;
    let mut start = command(text(program)?, &[]);
    start.envs(redis.settings(port)).stdout(Stdio::null());
    let begin = Instant::now();
    let mut child = start.spawn().map_err(|e| format!("{}: could not be started: {e}", program.display()))?;
    let greeted = greeting(port, limit);
    let took = begin.elapsed();
    child.kill().and_then(|()| child.wait()).map_err(|e| format!("ending {}: {e}", program.display()))?;
    greeted.map(|()| took)
}

/// `airlock serve` of a bundle.
pub struct Served {
    _process: Running,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Served {
    /// Starts it.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(
        place: Place,
        airlock: &Path,
        bundle: &Path,
        key: &Path,
        log: &Path,
    ) -> Result<Self, Failure> {
        let host = format!("127.0.0.1:{}", place.free_port()?);
        let args = ["serve", text(bundle)?, "--key", text(key)?, "--listen", &host];
        let mut process = Running::start(&place.command(text(airlock)?, &args), log)?;
        place.wait_for(&format!("http://{host}/v2/"), &mut process)?;
        Ok(Self { _process: process, host })
    }
}

/// A Docker engine of our own, with its own containerd: beside one that the machine may have, and never in touch with it.
pub struct Engine {
    dir: PathBuf,
    process: Option<Running>,
}

impl Engine {
    /// Starts one that keeps everything below `dir`, which is best short: sockets' paths have 107 bytes at most.
    ///
    /// # Errors
    /// When it does not come up; it needs root.
    pub fn start(place: Place, dir: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        let mut engine = Self { dir: dir.into(), process: None };
        let at = |name: &str| dir.join(name).display().to_string();
        let group = output(&mut command("id", &["-gn"]))?;
        let host = engine.host();
        let args = [
            "dockerd",
            "--host",
            &host,
            "--group",
            &group,
            "--data-root",
            &at("data"),
            "--exec-root",
            &at("exec"),
            "--pidfile",
            &at("pid"),
            "--config-file",
            &at("none.json"),
            "--bridge",
            "none",
            "--iptables=false",
            "--ip6tables=false",
        ];
        // An empty file, since the default one is the machine's own engine's.
        fs::write(at("none.json"), "{}").map_err(|e| format!("writing below {}: {e}", dir.display()))?;
        let dockerd = match place {
            Place::Here => as_root(args[0], &args[1..]),
            Place::In(_) => place.command(args[0], &args[1..]),
        };
        let mut process = Running::start(&dockerd, &dir.join("log"))?;
        process.until("the Docker engine is up", || {
            engine.docker(&["version"]).output().is_ok_and(|o| o.status.success())
        })?;
        engine.process = Some(process);
        Ok(engine)
    }

    /// What `DOCKER_HOST` is for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.join("sock").display())
    }

    /// The socket of its containerd.
    pub fn containerd(&self) -> PathBuf {
        self.dir.join("exec/containerd/containerd.sock")
    }

    /// The client, talking to it.
    pub fn docker(&self, args: &[&str]) -> Command {
        let host = self.host();
        command("docker", &[&["--host", &host], args].concat())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Containers first: the engine would leave their processes to themselves.
        if let Ok(ids) = output(&mut self.docker(&["ps", "--quiet"]))
            && !ids.is_empty()
        {
            let ids: Vec<&str> = ids.lines().collect();
            let _ = self.docker(&[&["rm", "--force"], ids.as_slice()].concat()).output();
        }
        drop(self.process.take());
    }
}

/// A directory for one run, removed at its end: what is in it may be root's.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one below the system's temporary directory, with a short name; removes those of runs that were ended
    /// before they could.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn create() -> Result<Self, Failure> {
        let base = std::env::temp_dir();
        for entry in fs::read_dir(&base).into_iter().flatten().flatten() {
            if entry.file_name().to_str().and_then(left_over).is_some() {
                remove(&entry.path());
            }
        }
        let dir = base.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        Ok(Self(dir))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Removes a directory that engines have worked in.
pub fn remove(dir: &Path) {
    // What an engine mounted and did not unmount would stay in the way.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = |line: &str| line.split(' ').nth(1).map(PathBuf::from).filter(|path| path.starts_with(dir));
    for mount in mounts.lines().filter_map(below).collect::<Vec<_>>().iter().rev() {
        let _ = as_root("umount", &["--lazy", &mount.display().to_string()]).output();
    }
    let _ = as_root("rm", &["-rf", "--one-file-system", &dir.display().to_string()]).output();
}
