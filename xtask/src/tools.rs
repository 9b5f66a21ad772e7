//! The real tools that tests and the demo use, installed where they are missing.
//!
//! Debian packages come by apt. What Debian's stable suite lacks goes into a directory of ours, and never into the
//! system: oras and cosign out of Debian sid's packages, helm built from its Go module (whose checksum database vouches
//! for the source; no digest of a release download could be pinned by somebody who has seen it).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::charts;
use crate::cluster;
use crate::sh::{as_root, can_be_root, command, output, run, text};
use crate::{Failure, Outcome};

/// A program, and the Debian package that has it.
const PACKAGES: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("docker-registry", "docker-registry"),
    ("skopeo", "skopeo"),
    ("dockerd", "docker.io"),
    ("docker", "docker-cli"),
    ("ctr", "containerd"),
    ("openssl", "openssl"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("curl", "curl"),
    ("mount", "mount"),
    ("git", "git"),
    ("promtool", "prometheus"),
    ("htpasswd", "apache2-utils"),
];

/// Programs out of packages of Debian sid.
const FROM_SID: &[(&str, &str)] = &[("oras", "oras"), ("cosign", "cosign")];

/// What a node is made of, besides Kubernetes.
const CLUSTER: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("etcd", "etcd-server"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("../lib/cni/bridge", "containernetworking-plugins"),
];

const HELM_VERSION: &str = "v4.2.4";
/// The distribution spec's conformance suite, at commit 97274622c111 of github.com/opencontainers/distribution-spec.
const CONFORMANCE: &str =
    "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111";
/// What helm's go.mod asks for.
const GO_MINOR: u32 = 26;

/// Where the tools are.
pub struct Tools {
    /// Our own directory; what it has is kept from run to run.
    home: PathBuf,
}

impl Tools {
    /// Installs what is missing, and says what it installs.
    ///
    /// # Errors
    /// When something is missing and can't be installed: the message says what to run.
    pub fn ensure() -> Result<Self, Failure> {
        packages(PACKAGES)?;
        if !can_be_root() {
            return Err("a Docker engine and network namespaces are started: run this as root, or where `sudo -n` works".into());
        }
        let tools = Self { home: home()? };
        fs::create_dir_all(tools.bin()).map_err(|e| format!("making {}: {e}", tools.bin().display()))?;
        for (program, package) in FROM_SID {
            if find(program).is_none() && !tools.bin().join(program).exists() {
                tools.adopt_from_sid(program, package, "usr/bin")?;
            }
        }
        tools.helm()?;
        tools.conformance()?;
        let check = charts::check(&tools.home, || tools.go())?;
        tools.adopt(&check, "chart-check")?;
        Ok(tools)
    }

    /// Helm alone: for what needs neither root nor an engine.
    ///
    /// # Errors
    /// When it can't be built.
    pub fn only_helm() -> Result<Self, Failure> {
        packages(&[("git", "git")])?;
        let tools = Self { home: home()? };
        fs::create_dir_all(tools.bin()).map_err(|e| format!("making {}: {e}", tools.bin().display()))?;
        tools.helm()?;
        Ok(tools)
    }

    /// The helm that [`Self::ensure`] and [`Self::only_helm`] have seen to.
    pub fn helm_binary(&self) -> PathBuf {
        self.bin().join("helm")
    }

    /// A directory for what is to be kept from run to run.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn cache(&self, name: &str) -> Result<PathBuf, Failure> {
        let directory = self.home.join(name);
        fs::create_dir_all(&directory).map_err(|e| format!("making {}: {e}", directory.display()))?;
        Ok(directory)
    }

    /// Compose and buildx, which the machine's docker may lack or have too old: they also run without it, as programs.
    ///
    /// # Errors
    /// When the packages can't be had.
    pub fn docker_plugins(&self) -> Outcome {
        for program in ["docker-compose", "docker-buildx"] {
            if !self.bin().join(program).exists() {
                self.adopt_from_sid(program, program, "usr/libexec/docker/cli-plugins")?;
            }
        }
        Ok(())
    }

    /// Compose, as [`Self::docker_plugins`] has it.
    pub fn docker_compose(&self) -> PathBuf {
        self.bin().join("docker-compose")
    }

    /// The directory with what `xtask/cluster` is built to; installs what a node needs besides.
    ///
    /// # Errors
    /// When a package can't be had, or Go can't build it.
    pub fn cluster(&self) -> Result<PathBuf, Failure> {
        packages(CLUSTER)?;
        cluster::build(&self.home, || self.go())
    }

    /// The directory with Debian sid's Prometheus 3 and its promtool: Debian 12's knows no `promtool check ready`.
    ///
    /// # Errors
    /// When the packages can't be had.
    pub fn prometheus(&self) -> Result<PathBuf, Failure> {
        Ok(self.sid_packages(&["prometheus", "promtool"], &architecture()?)?.join("usr/bin"))
    }

    /// A tar of a Debian with Rust, a C compiler, and both for the other architecture: what a base image is made of where
    /// none can be pulled. Kept from run to run.
    ///
    /// # Errors
    /// When mmdebstrap fails.
    pub fn rust_base(&self) -> Result<PathBuf, Failure> {
        let tar = self.home.join("rust-base.tar");
        if tar.exists() {
            return Ok(tar);
        }
        packages(&[("mmdebstrap", "mmdebstrap")])?;
        println!("making a Debian with Rust (testing, by mmdebstrap) below {}", self.home.display());
        let native = architecture()?;
        let (other, gcc) = match native.as_str() {
            "arm64" => ("amd64", "gcc-x86-64-linux-gnu"),
            _ => ("arm64", "gcc-aarch64-linux-gnu"),
        };
        // What the machine's apt needs to reach Debian, a proxy for example, this one needs too.
        let settings = self.home.join("rust-base.apt.conf");
        let own = output(&mut command("apt-config", &["dump", "Acquire"]))?;
        fs::write(&settings, own).map_err(|e| format!("writing {}: {e}", settings.display()))?;
        let draft = self.home.join("rust-base.new.tar");
        let include = format!(
            "--include=cargo,rustc,gcc,libc6-dev,{gcc},libc6-dev-{other}-cross,libstd-rust-dev:{other}"
        );
        run(&mut as_root(
            "mmdebstrap",
            &[
                "--quiet",
                "--variant=apt",
                &format!("--aptopt={}", text(&settings)?),
                &format!("--architectures={native},{other}"),
                &include,
                "testing",
                text(&draft)?,
                &debian_mirror(),
            ],
        ))?;
        fs::rename(&draft, &tar).map_err(|e| format!("renaming {}: {e}", draft.display()))?;
        Ok(tar)
    }

    /// Takes a program out of a package of Debian sid.
    fn adopt_from_sid(&self, program: &str, package: &str, dir: &str) -> Outcome {
        println!("installing {program} (package {package} of Debian sid) below {}", self.home.display());
        let root = self.sid_packages(&[package], &architecture()?)?;
        self.adopt(&root.join(dir).join(program), program)
    }

    fn bin(&self) -> PathBuf {
        self.home.join("bin")
    }

    /// `PATH` with our directory before the system's.
    ///
    /// # Errors
    /// When a directory's name has a colon in it.
    pub fn path(&self) -> Result<OsString, Failure> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = [self.bin()].into_iter().chain(std::env::split_paths(&path)).chain(sbin());
        std::env::join_paths(dirs).map_err(|e| format!("putting PATH together: {e}"))
    }

    /// A static busybox of an architecture, as Debian names it.
    ///
    /// # Errors
    /// When the package can't be had.
    pub fn busybox(&self, architecture: &str) -> Result<PathBuf, Failure> {
        let root = self.sid_packages(&["busybox-static"], architecture)?;
        let merged = root.join("usr/bin/busybox");
        Ok(if merged.exists() { merged } else { root.join("bin/busybox") })
    }

    /// A Python environment of our own with some packages of PyPI, `name==version` each.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn python(&self, requirements: &[&str]) -> Result<PathBuf, Failure> {
        let venv = self.home.join(format!("python-{}", requirements.join("+")));
        if !venv.join("complete").exists() {
            println!("installing {} below {}", requirements.join(", "), self.home.display());
            run(&mut command("python3", &["-m", "venv", "--clear", text(&venv)?]))
                .map_err(|why| format!("{why}\nhint: as root, run: apt-get install python3-venv"))?;
            let pip = [&["install", "--quiet", "--disable-pip-version-check"], requirements].concat();
            run(&mut command(text(&venv.join("bin/pip"))?, &pip))?;
            fs::write(venv.join("complete"), "")
                .map_err(|e| format!("writing below {}: {e}", venv.display()))?;
        }
        Ok(venv)
    }

    /// Links a program into our directory, whole or not at all.
    fn adopt(&self, file: &Path, program: &str) -> Outcome {
        let link = self.bin().join(program);
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(file, &link).map_err(|e| format!("linking {}: {e}", link.display()))
    }

    /// Packages of Debian sid, unpacked into one directory; nothing of the system is touched.
    fn sid_packages(&self, packages: &[&str], architecture: &str) -> Result<PathBuf, Failure> {
        let name = format!("{}-{architecture}", packages.join("+"));
        let unpacked = self.home.join(&name);
        if unpacked.exists() {
            return Ok(unpacked);
        }
        let apt = self.private_apt(architecture)?;
        let download = self.home.join(format!("{name}.download"));
        let _ = fs::remove_dir_all(&download);
        // In a directory of its own first: a run that is ended half-way leaves nothing that looks complete.
        let root = download.join("root");
        fs::create_dir_all(&root).map_err(|e| format!("making {}: {e}", root.display()))?;
        let args = [&["download"], packages].concat();
        run(command("apt-get", &args).env("APT_CONFIG", &apt).current_dir(&download))?;
        for entry in
            fs::read_dir(&download).map_err(|e| format!("reading {}: {e}", download.display()))?.flatten()
        {
            if entry.path().extension().is_some_and(|extension| extension == "deb") {
                run(&mut command("dpkg", &["--extract", text(&entry.path())?, text(&root)?]))?;
            }
        }
        fs::rename(&root, &unpacked).map_err(|e| format!("renaming {}: {e}", root.display()))?;
        let _ = fs::remove_dir_all(&download);
        Ok(unpacked)
    }

    /// The configuration of an apt with Debian sid's lists, apart from the system's.
    fn private_apt(&self, architecture: &str) -> Result<PathBuf, Failure> {
        let root = self.home.join(format!("apt-{architecture}"));
        let config = root.join("apt.conf");
        if config.exists() {
            return Ok(config);
        }
        for dir in
            ["state/lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/preferences.d"]
        {
            fs::create_dir_all(root.join(dir)).map_err(|e| format!("making {}: {e}", root.display()))?;
        }
        let write = |path: &Path, content: String| {
            fs::write(path, content).map_err(|e| format!("writing {}: {e}", path.display()))
        };
        let sources = root.join("etc/sources.list");
        let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
        write(&sources, format!("deb [signed-by={keyring}] {} sid main\n", debian_mirror()))?;
        let status = root.join("state/status");
        write(&status, String::new())?;
        let draft = root.join("apt.conf.new");
        write(
            &draft,
            format!(
                "APT::Architecture \"{architecture}\";\nAPT::Architectures {{ \"{architecture}\"; }};\n\
                 Dir::State \"{0}/state\";\nDir::State::status \"{1}\";\nDir::Cache \"{0}/cache\";\n\
                 Dir::Etc::sourcelist \"{2}\";\nDir::Etc::sourceparts \"{0}/etc/sources.list.d\";\n\
                 Dir::Etc::preferencesparts \"{0}/etc/preferences.d\";\nDir::Etc::preferences \"/dev/null\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n",
                root.display(),
                status.display(),
                sources.display(),
            ),
        )?;
        run(command("apt-get", &["update"]).env("APT_CONFIG", &draft))?;
        fs::rename(&draft, &config).map_err(|e| format!("renaming {}: {e}", draft.display()))?;
        Ok(config)
    }

    fn helm(&self) -> Outcome {
        if self.bin().join("helm").exists() {
            return Ok(());
        }
        if let Some(found) = find("helm") {
            let version = output(&mut command(text(&found)?, &["version", "--short"])).unwrap_or_default();
            if version.starts_with("v4.") {
                return self.adopt(&found, "helm");
            }
        }
        let go = self.go()?;
        println!(
            "building helm {HELM_VERSION} from its Go module, below {}; takes some minutes",
            self.home.display()
        );
        let module = format!("helm.sh/helm/v4/cmd/helm@{HELM_VERSION}");
        let built = self.home.join("helm");
        let version = format!("-s -w -X helm.sh/helm/v4/internal/version.version={HELM_VERSION}");
        run(command(text(&go)?, &["install", "-trimpath", "-ldflags", &version, &module])
            .env("CGO_ENABLED", "0")
            .env("GOBIN", &built))?;
        self.adopt(&built.join("helm"), "helm")
    }

    fn conformance(&self) -> Outcome {
        let (_, version) = CONFORMANCE.split_once('@').unwrap_or_default();
        let built = self.home.join(format!("conformance-{version}"));
        if !built.join("conformance").exists() {
            println!("building the distribution spec's conformance suite below {}", self.home.display());
            run(command(text(&self.go()?)?, &["install", "-trimpath", CONFORMANCE])
                .env("CGO_ENABLED", "0")
                .env("GOBIN", &built))?;
        }
        self.adopt(&built.join("conformance"), "oci-conformance")
    }

    /// A Go that is new enough for helm and for charts/check: the one on PATH, else Debian sid's.
    fn go(&self) -> Result<PathBuf, Failure> {
        if let Some(go) = find("go") {
            let version = output(&mut command(text(&go)?, &["env", "GOVERSION"])).unwrap_or_default();
            let minor =
                version.strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
            if minor.is_some_and(|minor| minor >= GO_MINOR) {
                return Ok(go);
            }
        }
        println!("installing Go 1.{GO_MINOR} (of Debian sid) below {}", self.home.display());
        let packages = [format!("golang-1.{GO_MINOR}-go"), format!("golang-1.{GO_MINOR}-src")];
        let root = self.sid_packages(&packages.each_ref().map(String::as_str), &architecture()?)?;
        Ok(root.join(format!("usr/lib/go-1.{GO_MINOR}/bin/go")))
    }
}

/// Installs Debian packages whose programs are missing.
///
/// # Errors
/// When they can't be installed: the message says what to run.
pub fn packages(wanted: &[(&str, &'static str)]) -> Outcome {
    let mut missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    // In Debian 12 docker.io brings the client along, and there is no docker-cli.
    let client =
        output(&mut command("apt-cache", &["show", "docker-cli"])).is_ok_and(|text| !text.is_empty());
    if !client {
        for package in &mut missing {
            if *package == "docker-cli" {
                *package = "docker.io";
            }
        }
        missing.dedup();
    }
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", missing.join(" "));
    let hint = |why: Failure| format!("{why}\nhint: as root, run: {by_hand}");
    if !can_be_root() {
        return Err(hint(
            "Debian packages are missing, and neither are we root nor does `sudo -n` work".into(),
        ));
    }
    println!("installing Debian packages: {}", missing.join(" "));
    run(&mut as_root("apt-get", &["update"])).map_err(hint)?;
    let mut install =
        vec!["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--no-install-recommends"];
    install.extend(&missing);
    run(&mut as_root("env", &install)).map_err(hint)
}

/// A program on PATH, or where root's PATH would have it.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(sbin()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn sbin() -> [PathBuf; 2] {
    ["/usr/sbin".into(), "/sbin".into()]
}

/// This machine's architecture, as Debian names it.
fn architecture() -> Result<String, Failure> {
    output(&mut command("dpkg", &["--print-architecture"]))
}

/// Where the system takes Debian's packages from: its own sources' first URL, so that a site's mirror is used.
fn debian_mirror() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|e| e.path()));
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let url = texts.flat_map(|text| {
        let lines = text.lines().filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
        let words = lines.flat_map(str::split_whitespace).map(str::to_owned);
        words.filter(|word| word.contains("://") && !word.contains("security")).collect::<Vec<_>>()
    });
    url.into_iter()
        .find(|url| url.trim_end_matches('/').ends_with("/debian"))
        .unwrap_or("http://deb.debian.org/debian".into())
}

/// A directory that outlives a checkout, so that helm is built once a machine.
fn home() -> Result<PathBuf, Failure> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let cache = cache.ok_or("finding a place for tools: neither XDG_CACHE_HOME nor HOME is set")?;
    Ok(cache.join("airlock-xtask"))
}
