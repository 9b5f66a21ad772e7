//! `cargo xtask cluster`: a Kubernetes of one node, of real parts, in a network namespace with no way out.
//!
//! The node is a PID and a mount namespace below that network namespace. Its first process starts the parts and starts
//! again what ends; when that first process is killed, the kernel ends everything with it, pods included, and what they
//! mounted is gone. So a node that was left behind is found by one process and cleared by ending it.

mod files;
mod node;
mod pki;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::files::{ADDRESS, API, BRIDGE, NODE, Paths, SERVICES};
pub use self::node::build;
use crate::parts::remove;
use crate::sh::{as_root, output, run, shown, text};
use crate::tools::Tools;
use crate::{Failure, Outcome};

/// The network namespace, the cgroup of the pods, the directory below the system's temporary one.
pub const NAME: &str = "airlock-cluster";
/// How long the cluster may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster that is up; it stays up when this is dropped.
pub struct Cluster {
    dir: PathBuf,
    program: PathBuf,
}

impl Cluster {
    /// The one of this machine: brought up, unless it is up and of these sources. One that is neither is cleared first.
    ///
    /// # Errors
    /// When it does not come up, with what the parts said last.
    pub fn up(tools: &Tools) -> Result<Self, Failure> {
        let built = tools.cluster()?;
        let cluster = Self { dir: directory(), program: built.join("node") };
        let _alone = alone()?;
        let paths = cluster.paths()?;
        let files = paths.files();
        // What it was made from: a cluster of other sources is another cluster.
        let made_from =
            files.iter().map(|(name, content)| format!("{name}\n{content}\n")).collect::<String>();
        let mark = cluster.dir.join("made-from");
        if fs::read_to_string(&mark).is_ok_and(|text| text == made_from) && cluster.unhealthy()?.is_none() {
            cluster.objects()?;
            return Ok(cluster);
        }
        clear(&cluster.dir)?;
        for name in ["cni", "certs.d", "lib", "log", "sysctl"] {
            make(&cluster.dir.join(name))?;
        }
        for (name, content) in &files {
            pki::write(&cluster.dir.join(name), content)?;
        }
        pki::make(&paths)?;
        network()?;
        cgroup()?;
        cluster.start()?;
        cluster.import(&built.join("pause.tar"))?;
        cluster.wait_until_healthy()?;
        pki::write(&mark, &made_from)?;
        Ok(cluster)
    }

    /// Forgets the images of earlier runs: the runtime calls an image by the first digest that it had it under.
    ///
    /// # Errors
    /// When the node can't be asked.
    pub fn forget_images(&self) -> Outcome {
        let socket = self.dir.join("containerd.sock");
        let to_node = ["--address", text(&socket)?, "--namespace", "k8s.io", "images"];
        let listed = output(&mut as_root("ctr", &[&to_node[..], &["ls"]].concat()))?;
        let rows: Vec<Vec<&str>> =
            listed.lines().skip(1).map(|row| row.split_whitespace().collect()).collect();
        let is_pause = |row: &&Vec<&str>| row.first() == Some(&files::PAUSE);
        let kept = rows.iter().find(is_pause).and_then(|row| row.get(2));
        let old: Vec<&str> =
            rows.iter().filter(|row| row.get(2) != kept).filter_map(|row| row.first().copied()).collect();
        if old.is_empty() {
            return Ok(());
        }
        run(&mut as_root("ctr", &[&to_node[..], &["rm", "--sync"], &old].concat()))
    }

    /// What tests find it by.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let at = |name: &str| self.dir.join(name).display().to_string();
        vec![
            ("AIRLOCK_TEST_KUBECONFIG", at("admin.kubeconfig")),
            ("AIRLOCK_TEST_NETNS", format!("/run/netns/{NAME}")),
            ("AIRLOCK_TEST_NODE_ADDRESS", ADDRESS.into()),
            ("AIRLOCK_TEST_CERTS_D", at("certs.d")),
            ("AIRLOCK_TEST_CRI", at("containerd.sock")),
            ("AIRLOCK_TEST_KUBECTL", self.program.display().to_string()),
        ]
    }

    fn paths(&self) -> Result<Paths<'_>, Failure> {
        Ok(Paths { dir: text(&self.dir)?, program: text(&self.program)? })
    }

    /// Starts the node, in a session of its own: it is not to end with us.
    fn start(&self) -> Outcome {
        let net = format!("--net=/run/netns/{NAME}");
        let (script, log) = (self.dir.join("start.sh"), self.dir.join("log/node.log"));
        let log = fs::File::create(&log).map_err(|e| format!("making {}: {e}", log.display()))?;
        let again = log.try_clone().map_err(|e| format!("opening a log: {e}"))?;
        // The environment is the machine's in nothing: a proxy, for example, is none of the cluster's business.
        let unshare =
            ["env", "-i", "unshare", "--pid", "--mount", "--fork", "--kill-child", "sh", text(&script)?];
        let mut node = as_root("setsid", &[&["nsenter", &net, "--"], &unshare[..]].concat());
        node.current_dir("/").stdin(Stdio::null()).stdout(log).stderr(again);
        node.spawn().map(drop).map_err(|e| format!("{}: could not be started: {e}", shown(&node)))
    }

    /// Puts an image into the node's containerd as soon as that answers.
    fn import(&self, tar: &Path) -> Outcome {
        let socket = self.dir.join("containerd.sock");
        let args = ["--address", text(&socket)?, "--namespace", "k8s.io", "images", "import", text(tar)?];
        let end = Instant::now() + PATIENCE;
        loop {
            let done =
                if socket.exists() { run(&mut as_root("ctr", &args)) } else { Err("no socket".into()) };
            match done {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() > end || !is_running(&self.dir) => return Err(self.failed(&why)),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn wait_until_healthy(&self) -> Outcome {
        let end = Instant::now() + PATIENCE;
        let mut given = false;
        while let Some(why) = self.unhealthy()? {
            // As soon as the API server takes them.
            given = given || self.objects().is_ok();
            if Instant::now() > end || !is_running(&self.dir) {
                return Err(self.failed(&why));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        Ok(())
    }

    /// What is wrong with it, if anything is.
    fn unhealthy(&self) -> Result<Option<String>, Failure> {
        if !is_running(&self.dir) {
            return Ok(Some("it is not running".into()));
        }
        if let Err(why) = self.ask("/readyz") {
            return Ok(Some(format!("the API server is not ready: {why}")));
        }
        let node = match self.ask(&format!("/api/v1/nodes/{NODE}")) {
            Ok(node) => serde_json::from_str::<Value>(&node).unwrap_or_default(),
            Err(_) => return Ok(Some("the node is not there yet".into())),
        };
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        if let Some(ready) = ready.filter(|ready| ready["status"] != "True") {
            return Ok(Some(format!("the node is not ready: {}", ready["message"])));
        }
        if ready.is_none() || node["spec"]["taints"].as_array().is_some_and(|taints| !taints.is_empty()) {
            return Ok(Some("the node takes no pods yet".into()));
        }
        let ask = inside(
            "curl",
            &["--silent", "--fail", "--noproxy", "*", &format!("http://{ADDRESS}:8181/ready")],
        )
        .output();
        if !ask.is_ok_and(|answer| answer.status.success()) {
            return Ok(Some("CoreDNS is not ready".into()));
        }
        // A pod can't be made before its namespace has this.
        let account = self.ask("/api/v1/namespaces/default/serviceaccounts/default");
        Ok(account.is_err().then(|| "the first namespace has no service account yet".into()))
    }

    /// Gives the API server its first objects; volumes that were used are emptied, and offered again.
    fn objects(&self) -> Outcome {
        let list = self.kubectl(&["get", "persistentvolumes", "--output", "json"])?;
        let list: Value = serde_json::from_str(&list).map_err(|e| format!("kubectl get: {e}"))?;
        let there = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let used: Vec<_> = there.iter().filter(|volume| volume["status"]["phase"] == "Released").collect();
        if used.is_empty() && !there.is_empty() {
            return Ok(());
        }
        for volume in used {
            let name = volume["metadata"]["name"].as_str().unwrap_or_default();
            self.kubectl(&["delete", "persistentvolume", name])?;
            remove(&self.dir.join("volumes").join(name));
        }
        for name in files::volumes() {
            make(&self.dir.join("volumes").join(name))?;
        }
        self.kubectl(&["apply", "--filename", text(&self.dir.join("objects.json"))?]).map(drop)
    }

    /// What `kubectl` prints, run as the administrator.
    fn kubectl(&self, args: &[&str]) -> Result<String, Failure> {
        let (program, config) = (text(&self.program)?, self.dir.join("admin.kubeconfig"));
        let kubectl = ["kubectl", "--kubeconfig", text(&config)?, "--cache-dir", "/dev/null"];
        output(&mut inside(program, &[&kubectl[..], args].concat()))
    }

    /// What the API server says to its administrator.
    fn ask(&self, path: &str) -> Result<String, Failure> {
        let read =
            |name: &str| fs::read_to_string(self.dir.join(name)).map_err(|e| format!("reading {name}: {e}"));
        let kubeconfig: Value =
            serde_json::from_str(&read("admin.kubeconfig")?).map_err(|e| format!("admin.kubeconfig: {e}"))?;
        let token = kubeconfig["users"][0]["user"]["token"].as_str().unwrap_or_default();
        let (header, url) = (format!("Authorization: Bearer {token}"), format!("{API}{path}"));
        let ca = self.dir.join("pki/ca.pem");
        let mut args =
            vec!["--silent", "--show-error", "--max-time", "10", "--noproxy", "*", "--cacert", text(&ca)?];
        args.extend(["--fail", "--header", &header, &url]);
        output(&mut inside("curl", &args)).map_err(|why| why.lines().last().unwrap_or_default().to_owned())
    }

    /// Why it did not come up, with the last words of the parts.
    fn failed(&self, why: &str) -> Failure {
        let mut text = format!("the cluster did not come up: {why}");
        let logs = fs::read_dir(self.dir.join("log")).into_iter().flatten().flatten();
        for log in logs.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"))
        {
            let said = fs::read(&log).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<&str> = said.trim_end().lines().collect();
            let tail = lines[lines.len().saturating_sub(5)..].join("\n");
            text.push_str(&format!("\n--- {}\n{tail}", log.display()));
        }
        text
    }
}

/// `cargo xtask cluster`: brings it up, and says how to use it.
///
/// # Errors
/// When it does not come up.
pub fn up() -> Outcome {
    let begin = Instant::now();
    let cluster = Cluster::up(&Tools::ensure()?)?;
    println!("Kubernetes {} is up ({:.1} s)", node::KUBERNETES, begin.elapsed().as_secs_f64());
    for (name, value) in cluster.environment() {
        println!("export {name}='{value}'");
    }
    println!(
        "kubectl: sudo nsenter --net=/run/netns/{NAME} {} kubectl --kubeconfig {} get nodes",
        cluster.program.display(),
        cluster.dir.join("admin.kubeconfig").display()
    );
    println!("taken down by: cargo xtask cluster down");
    Ok(())
}

/// `cargo xtask cluster down`: ends it, and removes all it had.
///
/// # Errors
/// When something of it stays.
pub fn down() -> Outcome {
    let _alone = alone()?;
    clear(&directory())?;
    println!("the cluster is down");
    Ok(())
}

/// `cargo xtask cluster status`: says whether it is up.
///
/// # Errors
/// When it is not, or not healthy.
pub fn status() -> Outcome {
    let cluster = Cluster { dir: directory(), program: PathBuf::new() };
    match cluster.unhealthy()? {
        None => println!("Kubernetes {} is up; its files are in {}", node::KUBERNETES, cluster.dir.display()),
        Some(why) => return Err(format!("no cluster: {why}\nhint: cargo xtask cluster")),
    }
    Ok(())
}

/// Its directory, whose path is to be short: sockets' paths have 107 bytes at most.
fn directory() -> PathBuf {
    std::env::temp_dir().join(NAME)
}

/// Keeps two of us from bringing it up or down at once, until it is dropped.
fn alone() -> Result<fs::File, Failure> {
    let path = directory().with_extension("lock");
    let file = fs::File::create(&path).map_err(|e| format!("making {}: {e}", path.display()))?;
    file.lock().map_err(|e| format!("locking {}: {e}", path.display()))?;
    Ok(file)
}

/// A program in the cluster's network namespace.
fn inside(program: &str, args: &[&str]) -> Command {
    let net = format!("--net=/run/netns/{NAME}");
    as_root("nsenter", &[&[&net, "--", program], args].concat())
}

/// The network namespace: loopback, and a bridge that is the node's address and its pods' switch. No route leads out.
fn network() -> Outcome {
    run(&mut as_root("ip", &["netns", "add", NAME]))?;
    let address = format!("{ADDRESS}/24");
    for args in [
        &["link", "set", "lo", "up"][..],
        &["link", "add", BRIDGE, "type", "bridge"],
        &["address", "add", &address, "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
        // Services' addresses are translated on the way, so there has to be one.
        &["route", "add", SERVICES, "dev", BRIDGE],
    ] {
        run(&mut as_root("ip", &[&["-n", NAME], args].concat()))?;
    }
    run(&mut inside("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))
}

/// The cgroup of all pods, in every hierarchy of cgroup v1: kubelet wants to find it. A cpuset begins with no processor.
fn cgroup() -> Outcome {
    let script = "for dir in /sys/fs/cgroup/*/; do\n\
                  [ -e \"$dir/cgroup.procs\" ] || continue\n\
                  mkdir -p \"$dir/$0\"\n\
                  for file in cpuset.cpus cpuset.mems; do\n\
                  [ ! -e \"$dir/$0/$file\" ] || cat \"$dir/$file\" > \"$dir/$0/$file\"\n\
                  done\n\
                  done";
    run(&mut as_root("sh", &["-ec", script, NAME]))
}

/// Ends a node, whatever state it is in, and removes what it had.
fn clear(dir: &Path) -> Outcome {
    let end = Instant::now() + PATIENCE;
    loop {
        let processes = processes(dir);
        if processes.is_empty() {
            break;
        }
        if Instant::now() > end {
            return Err(format!("processes of the cluster can't be ended: {processes:?}"));
        }
        let _ = as_root(
            "kill",
            &[&["-KILL"][..], &processes.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
        )
        .output();
        std::thread::sleep(Duration::from_millis(50));
    }
    if Path::new("/run/netns").join(NAME).exists() {
        run(&mut as_root("ip", &["netns", "delete", NAME]))?;
    }
    // Empty now, or as soon as the kernel has buried the last.
    let cgroups = "for i in 1 2 3 4 5 6 7 8 9 10; do\n\
                   find /sys/fs/cgroup/*/\"$0\" -depth -type d -exec rmdir {} + 2>/dev/null || true\n\
                   ls -d /sys/fs/cgroup/*/\"$0\" >/dev/null 2>&1 || exit 0\n\
                   sleep 0.2\n\
                   done";
    run(&mut as_root("sh", &["-c", cgroups, NAME]))?;
    remove(dir);
    if dir.exists() { Err(format!("{} can't be removed", dir.display())) } else { Ok(()) }
}

fn make(dir: &Path) -> Outcome {
    fs::create_dir_all(dir).map_err(|e| format!("making {}: {e}", dir.display()))
}

fn is_running(dir: &Path) -> bool {
    !processes(dir).is_empty()
}

/// The processes that a node begins with: the supervisor, what starts it, and what waits for it.
fn processes(dir: &Path) -> Vec<String> {
    let marks = [dir.join("start.sh"), dir.join("parts.json")].map(|mark| mark.display().to_string());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            let words = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            words.split(|byte| *byte == 0).any(|word| marks.iter().any(|mark| mark.as_bytes() == word))
        })
        .collect()
}
