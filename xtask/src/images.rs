//! Real images, and a registry full of them: what "upstream" is in the tests and in the demo.
//!
//! Where Docker Hub can be reached, Redis comes from there, by its pinned digest; where it can't, it is put together from
//! the machine's own redis-server. Everything else is made here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::parts::{Engine, Registry};
use crate::sh::{command, output, run, text};
use crate::tools::Tools;
use crate::{Failure, Outcome};

/// The service: OCI format, pushed by skopeo.
pub const HELLO: &str = "docker.io/airlock-dev/hello:0.1.0";
/// What the chart of the service asks for: Docker schema 2, pushed by docker, or upstream's index.
pub const REDIS: &str = "docker.io/library/redis:8.10.1-alpine";
const REDIS_DIGEST: &str = "sha256:becdda6c7f4b3fb42e42fd7f120bbf5c54c4caaaf16f26da24e4563d2c1f0576";
/// An OCI index of two platforms, pushed by oras.
pub const BUSYBOX: &str = "docker.io/library/busybox:1.36";
/// The same under the tag that the test of helm's starter chart asks for, by having none.
const BUSYBOX_LATEST: &str = "docker.io/library/busybox:latest";
/// What the third-party chart runs: pushed by docker.
pub const WEB: &str = "quay.io/example/web:1.0.0";
/// The third-party chart.
pub const WEB_CHART_VERSION: &str = "0.1.0";

/// An upstream registry with images and a chart, each repository below the name of the host it stands for.
pub struct Upstream {
    /// The registry itself.
    pub registry: Registry,
    /// Digest of each reference, as the registry has it.
    pub digests: BTreeMap<String, String>,
    /// Where Redis came from, for people.
    pub redis: &'static str,
}

impl Upstream {
    /// Makes the images in `engine`, pushes them into `registry`, and the chart too.
    ///
    /// # Errors
    /// When a tool fails.
    pub fn fill(
        registry: Registry,
        engine: &Engine,
        tools: &Tools,
        hello: &Path,
        work: &Path,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(work).map_err(|e| format!("making {}: {e}", work.display()))?;
        let maker = Maker { registry: &registry, engine, tools, work };
        maker.hello(hello)?;
        let redis = maker.redis()?;
        maker.busybox()?;
        maker.web()?;
        maker.web_chart()?;
        let mut digests = BTreeMap::new();
        for reference in [HELLO, REDIS, BUSYBOX, BUSYBOX_LATEST, WEB] {
            let digest =
                output(&mut maker.tool("oras", &["resolve", "--plain-http", &maker.at(reference)])?)?;
            digests.insert(reference.to_owned(), digest);
        }
        Ok(Self { registry, digests, redis })
    }

    /// `HOST=REGISTRY/PREFIX` for each host that it stands for, as `AIRLOCK_MIRRORS` takes them.
    pub fn mirrors(&self) -> String {
        let host = &self.registry.host;
        format!("docker.io={host}/docker.io,quay.io={host}/quay.io")
    }

    /// The third-party chart's repository.
    pub fn web_chart(&self) -> String {
        format!("oci://{}/charts/web", self.registry.host)
    }
}

struct Maker<'a> {
    registry: &'a Registry,
    engine: &'a Engine,
    tools: &'a Tools,
    work: &'a Path,
}

impl Maker<'_> {
    /// Where a reference is in the upstream registry.
    fn at(&self, reference: &str) -> String {
        format!("{}/{reference}", self.registry.host)
    }

    fn tool(&self, program: &str, args: &[&str]) -> Result<Command, Failure> {
        let mut command = command(program, args);
        command.env("PATH", self.tools.path()?).current_dir(self.work);
        Ok(command)
    }

    fn dir(&self, name: &str) -> Result<PathBuf, Failure> {
        let dir = self.work.join(name);
        fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
        Ok(dir)
    }

    /// Builds by the engine's own builder: buildx may not be there, and a plain build needs nothing from outside.
    fn build(&self, reference: &str, context: &Path, more: &[&str]) -> Outcome {
        let args = [&["build", "--quiet", "--tag", reference], more, &[text(context)?]].concat();
        run(self.engine.docker(&args).env("DOCKER_BUILDKIT", "0"))
    }

    /// Pushes an image of the engine by `docker push`.
    fn docker_push(&self, reference: &str) -> Outcome {
        let there = self.at(reference);
        run(&mut self.engine.docker(&["tag", reference, &there]))?;
        run(&mut self.engine.docker(&["push", "--quiet", &there]))?;
        run(&mut self.engine.docker(&["rmi", &there]))
    }

    fn hello(&self, binary: &Path) -> Outcome {
        let context = self.dir("hello")?;
        copy(Path::new("Containerfile"), &context.join("Containerfile"))?;
        copy(binary, &context.join("service"))?;
        let file = context.join("Containerfile");
        let more = ["--file", text(&file)?, "--target", "hello-prebuilt", "--build-arg", "BINARY=service"];
        self.build(HELLO, &context, &more)?;
        let (from, to) = (format!("docker-daemon:{HELLO}"), format!("docker://{}", self.at(HELLO)));
        let host = self.engine.host();
        let flags =
            ["copy", "--format", "oci", "--dest-tls-verify=false", "--src-daemon-host", &host, &from, &to];
        run(&mut self.tool("skopeo", &flags)?)
    }

    fn redis(&self) -> Result<&'static str, Failure> {
        let from = format!("docker://docker.io/library/redis@{REDIS_DIGEST}");
        let to = format!("docker://{}", self.at(REDIS));
        let copy_all = ["120", "skopeo", "copy", "--all", "--dest-tls-verify=false", &from, &to];
        if self.tool("timeout", &copy_all)?.output().is_ok_and(|o| o.status.success()) {
            return Ok("Docker Hub, by digest");
        }
        let context = self.dir("redis")?;
        // Debian has both names as one program, or as a link from one to the other.
        let server =
            output(command("sh", &["-c", "command -v redis-server"]).env("PATH", self.tools.path()?))?;
        let client = output(command("sh", &["-c", "command -v redis-cli"]).env("PATH", self.tools.path()?))?;
        copy_with_libraries(&server, &context, "usr/local/bin/redis-server")?;
        copy_with_libraries(&client, &context, "usr/local/bin/redis-cli")?;
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY root /\nWORKDIR /data\nENV PATH=/usr/local/bin\nCMD [\"redis-server\"]\n",
        )
        .map_err(|e| format!("writing a Dockerfile: {e}"))?;
        self.build(REDIS, &context, &[])?;
        self.docker_push(REDIS)?;
        Ok("Debian's redis-server (Docker Hub is not reachable)")
    }

    fn busybox(&self) -> Outcome {
        let mut children = Vec::new();
        for (architecture, platform) in [("amd64", "amd64"), ("arm64", "arm64")] {
            let dir = self.dir(&format!("busybox-{architecture}"))?;
            let bin = self.dir(&format!("busybox-{architecture}/root/bin"))?;
            copy(&self.tools.busybox(architecture)?, &bin.join("busybox"))?;
            for applet in ["sh", "ls", "cat", "wget", "httpd", "sleep"] {
                let _ = std::os::unix::fs::symlink("busybox", bin.join(applet));
            }
            let tar = [
                "--sort=name",
                "--mtime=@0",
                "--owner=0",
                "--group=0",
                "--numeric-owner",
                "-C",
                "root",
                "-cf",
                "layer.tar",
                "bin",
            ];
            run(command("tar", &tar).current_dir(&dir))?;
            let diff_id = output(command("sha256sum", &["layer.tar"]).current_dir(&dir))?;
            run(command("gzip", &["-nf", "layer.tar"]).current_dir(&dir))?;
            let config = json!({
                "architecture": platform, "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
                "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", diff_id.split(' ').next().unwrap_or_default())]},
            });
            fs::write(dir.join("config.json"), config.to_string())
                .map_err(|e| format!("writing a config: {e}"))?;
            let there = format!("{}-{architecture}", self.at(BUSYBOX));
            let mut push = self.tool(
                "oras",
                &[
                    "push",
                    "--plain-http",
                    "--config",
                    "config.json:application/vnd.oci.image.config.v1+json",
                    &there,
                    "layer.tar.gz:application/vnd.oci.image.layer.v1.tar+gzip",
                ],
            )?;
            run(push.current_dir(&dir))?;
            children.push(format!("1.36-{architecture}"));
        }
        let index = format!("{},latest", self.at(BUSYBOX));
        let mut args = vec!["manifest", "index", "create", "--plain-http", &index];
        args.extend(children.iter().map(String::as_str));
        run(&mut self.tool("oras", &args)?)
    }

    fn web(&self) -> Outcome {
        let context = self.dir("web")?;
        let bin = self.dir("web/root/bin")?;
        let native = output(&mut command("dpkg", &["--print-architecture"]))?;
        copy(&self.tools.busybox(&native)?, &bin.join("busybox"))?;
        let page = self.dir("web/root/www")?.join("index.html");
        fs::write(&page, "<h1>Out of the bundle</h1>\n")
            .map_err(|e| format!("writing {}: {e}", page.display()))?;
        fs::write(
            context.join("Dockerfile"),
            "FROM scratch\nCOPY root/bin /bin\nCOPY root/www /www\nEXPOSE 80\nCMD [\"/bin/busybox\", \"httpd\", \"-f\", \"-h\", \"/www\"]\n",
        )
        .map_err(|e| format!("writing a Dockerfile: {e}"))?;
        self.build(WEB, &context, &[])?;
        self.docker_push(WEB)
    }

    /// A chart as a stranger makes one: helm's own starter, with another image.
    fn web_chart(&self) -> Outcome {
        let above = self.dir("web-chart")?;
        run(self.tool("helm", &["create", "web"])?.current_dir(&above))?;
        let dir = above.join("web");
        let (repository, tag) = WEB.rsplit_once(':').unwrap_or((WEB, ""));
        edit(&dir.join("values.yaml"), "repository: nginx", &format!("repository: {repository}"))?;
        edit(&dir.join("Chart.yaml"), "appVersion: \"1.16.0\"", &format!("appVersion: \"{tag}\""))?;
        run(&mut self.tool("helm", &["package", "web-chart/web"])?)?;
        let packed = format!("web-{WEB_CHART_VERSION}.tgz");
        run(&mut self.tool(
            "helm",
            &["push", "--plain-http", &packed, &format!("oci://{}/charts", self.registry.host)],
        )?)
    }
}

/// Replaces a text that must be there.
fn edit(file: &Path, from: &str, to: &str) -> Outcome {
    let content = fs::read_to_string(file).map_err(|e| format!("reading {}: {e}", file.display()))?;
    if !content.contains(from) {
        return Err(format!("{}: helm's starter chart has no {from:?} any more", file.display()));
    }
    fs::write(file, content.replace(from, to)).map_err(|e| format!("writing {}: {e}", file.display()))
}

fn copy(from: &Path, to: &Path) -> Outcome {
    fs::copy(from, to).map(drop).map_err(|e| format!("copying {} to {}: {e}", from.display(), to.display()))
}

/// Copies a program to `root/<to>` below `context`, and each library it loads to where it looks for it.
///
/// # Errors
/// When a file can't be copied.
pub fn copy_with_libraries(program: &str, context: &Path, to: &str) -> Outcome {
    let mut files = vec![(program.to_owned(), to.to_owned())];
    let loaded = output(&mut command("ldd", &[program]))?;
    let paths = loaded.split_whitespace().filter(|word| word.starts_with('/'));
    files.extend(paths.map(|path| (path.to_owned(), path.trim_start_matches('/').to_owned())));
    for (from, to) in files {
        let to = context.join("root").join(to);
        let above = to.parent().unwrap_or(context);
        fs::create_dir_all(above).map_err(|e| format!("making {}: {e}", above.display()))?;
        copy(Path::new(&from), &to)?;
    }
    Ok(())
}

/// Builds a binary of the workspace for release, and returns where it is.
///
/// # Errors
/// When it does not build.
pub fn release(package: &str, binary: &str) -> Result<PathBuf, Failure> {
    let args = [
        "build",
        "--release",
        "--locked",
        "--package",
        package,
        "--bin",
        binary,
        "--message-format",
        "json-render-diagnostics",
    ];
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let done = cargo.args(args).stderr(std::process::Stdio::inherit()).output();
    let done = done.map_err(|e| format!("starting cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("cargo build --release --package {package}: {}", done.status));
    }
    let messages = String::from_utf8_lossy(&done.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        let path = message.get("executable")?.as_str()?;
        (message["target"]["name"] == binary).then(|| PathBuf::from(path))
    });
    executables.next_back().ok_or_else(|| format!("cargo built no {binary}"))
}
