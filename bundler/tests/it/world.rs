//! A directory of a test's own with a spec, images and keys in it, and the `airlock` binary run there.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use bundler::digest::Digest;
use serde_json::json;

use crate::parts::Running;

pub const PASSWORD: &str = "correct horse";

/// A test's own directory.
pub struct World {
    dir: tempfile::TempDir,
}

/// How a run of airlock ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Asserts the exit code, with all output if it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts that stderr has a text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in stderr: {}", self.stderr);
        self
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).expect(&self.stdout)
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into(),
            stderr: String::from_utf8_lossy(&output.stderr).into(),
        }
    }
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// In `parent`: where there is room, or little of it.
    pub fn below(parent: &Path) -> Self {
        Self { dir: tempfile::tempdir_in(parent).expect("a temporary directory") }
    }

    /// A signed bundle `app.tar` of two small images and a file, with its keys.
    pub fn with_bundle() -> Self {
        let world = Self::new();
        world.image("redis", &["linux/amd64"], b"redis");
        world.image("web", &["linux/amd64"], b"web");
        world.write("notes.txt", b"read me\n");
        world.spec(&format!(
            "[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n\
             [[image]]\nref = \"quay.io/a/web:1.0\"\nfrom = \"oci:web\"\n\
             [[file]]\nname = \"notes.txt\"\npath = \"notes.txt\"\nsha256 = \"{}\"\n",
            Digest::of(b"read me\n").hex()
        ));
        world.keys("airlock");
        world.run(&["lock"]).exits(0);
        world.build("app.tar");
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        std::fs::write(path, content).expect(name);
    }

    /// `bundle.toml` for linux/amd64.
    pub fn spec(&self, rest: &str) {
        let head = "name = \"app\"\nversion = \"1.0.0\"\nplatforms = [\"linux/amd64\"]\n";
        self.write("bundle.toml", format!("{head}{rest}").as_bytes());
    }

    pub fn keys(&self, name: &str) {
        self.run(&["keys", "generate", "--name", name]).exits(0);
    }

    pub fn build(&self, output: &str) {
        self.run(&["build", "--key", "airlock.key", "--output", output]).exits(0);
    }

    /// Runs airlock here, with an environment of its own.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        self.command(args).output().expect("airlock").into()
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_airlock"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("DOCKER_CONFIG", self.path("docker"))
            .env("AIRLOCK_PASSWORD", PASSWORD)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .stdin(Stdio::null());
        command
    }

    /// An OCI layout directory with one image, for one or several platforms; each has a layer with `content` in it.
    pub fn image(&self, name: &str, platforms: &[&str], content: &[u8]) {
        let root = self.path(name);
        let mut children = Vec::new();
        for platform in platforms {
            let (os, architecture) = platform.split_once('/').expect("a platform");
            let layer = layer(&[content, architecture.as_bytes()].concat());
            let layer_blob = blob(&root, "application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&layer));
            let config = json!({
                "architecture": architecture, "os": os, "config": {"Cmd": ["/app"]},
                "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer)]},
            });
            let config =
                blob(&root, "application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
            let manifest = json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config, "layers": [layer_blob],
            });
            let mut child =
                blob(&root, "application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
            child["platform"] = json!({"os": os, "architecture": architecture});
            children.push(child);
        }
        let root_descriptor = match children.as_slice() {
            [only] => only.clone(),
            _ => {
                let index = json!({
                    "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": children,
                });
                blob(&root, "application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
            }
        };
        let index = json!({"schemaVersion": 2, "manifests": [root_descriptor]});
        std::fs::write(root.join("index.json"), index.to_string()).expect("index.json");
        std::fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("oci-layout");
    }
}

/// `airlock serve` of a bundle.
pub struct Served {
    pub process: Running,
    /// `127.0.0.1:PORT`.
    pub host: String,
}

impl Served {
    pub fn start(world: &World, bundle: &str) -> Self {
        Self::with(world, bundle, &[])
    }

    pub fn with(world: &World, bundle: &str, more: &[&str]) -> Self {
        Self::said(world, &[&[bundle, "--key", "airlock.pub"], more].concat())
    }

    /// With other arguments about trust than the world's key.
    pub fn bundle(world: &World, bundle: &str, more: &[&str]) -> Self {
        Self::said(world, &[&[bundle], more].concat())
    }

    /// What is pushed there.
    pub fn store(world: &World, directory: &str, more: &[&str]) -> Self {
        Self::said(world, &[&["--store", directory], more].concat())
    }

    fn said(world: &World, args: &[&str]) -> Self {
        let mut command = world.command(&["--json", "serve"]);
        let listen = if args.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        command.args(listen).args(args).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("airlock");
        let stdout = child.stdout.take().expect("its stdout");
        let process = Running(child);
        // It says where it listens, in one value, and stays.
        let said =
            serde_json::Deserializer::from_reader(stdout.take(4096)).into_iter::<serde_json::Value>().next();
        let said = said.expect("an address").expect("JSON");
        let host = said["address"].as_str().expect("an address").into();
        Self { process, host }
    }
}

/// Names in a directory, sorted.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Writes a blob; its descriptor.
pub fn blob(root: &Path, media_type: &str, content: &[u8]) -> serde_json::Value {
    let digest = Digest::of(content);
    let dir = root.join("blobs/sha256");
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join(digest.hex()), content).expect("a blob");
    json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

fn layer(content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "app", content).expect("an entry");
    tar.into_inner().expect("a tar")
}

fn gzip(content: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).expect("gzip");
    encoder.finish().expect("gzip")
}
