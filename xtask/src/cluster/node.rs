//! The node's program, built once from the Go module `xtask/cluster`, and the image that pods begin with.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::files::PAUSE;
use crate::sh::{command, output, run, text};
use crate::{Failure, Outcome};

/// What the API server says that it is; `xtask/cluster/go.mod` has the same.
pub const KUBERNETES: &str = "v1.34.4";
const SOURCES: &[&str] = &["main.go", "supervise.go", "pause/main.go", "go.mod", "go.sum"];

/// Builds `node` and `pause.tar` into a directory below `home`, unless these sources were built before.
///
/// # Errors
/// When a source can't be read, or Go can't build it.
pub fn build(home: &Path, go: impl FnOnce() -> Result<PathBuf, Failure>) -> Result<PathBuf, Failure> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
    let mut hasher = DefaultHasher::new();
    (KUBERNETES, PAUSE).hash(&mut hasher);
    for name in SOURCES {
        let file = sources.join(name);
        fs::read(&file).map_err(|e| format!("reading {}: {e}", file.display()))?.hash(&mut hasher);
    }
    let built = home.join(format!("cluster-{:016x}", hasher.finish()));
    if built.exists() {
        return Ok(built);
    }
    println!(
        "building Kubernetes {KUBERNETES} from its Go module, below {}; takes some 10 minutes",
        home.display()
    );
    // In a directory of its own first: a run that is ended half-way leaves nothing that looks complete.
    let draft = home.join(format!("cluster.{}", std::process::id()));
    fs::create_dir_all(&draft).map_err(|e| format!("making {}: {e}", draft.display()))?;
    let program = go()?;
    let build = |flags: &str, to: &Path, package: &str| {
        let args = ["build", "-trimpath", "-ldflags", flags, "-o", text(to)?, package];
        run(command(text(&program)?, &args).current_dir(&sources).env("CGO_ENABLED", "0"))
    };
    build(&flags(), &draft.join("node"), ".")?;
    build("-s -w", &draft.join("pause"), "./pause")?;
    pause_image(&draft)?;
    fs::rename(&draft, &built)
        .or_else(|e| if built.exists() { Ok(()) } else { Err(e) })
        .map_err(|e| format!("renaming {}: {e}", draft.display()))?;
    Ok(built)
}

/// The linker's: no symbols, and the version, which both the server's and the clients' packages keep.
fn flags() -> String {
    let (major, minor) = KUBERNETES.trim_start_matches('v').split_once('.').unwrap_or_default();
    let minor = minor.split('.').next().unwrap_or_default();
    let mut flags = String::from("-s -w");
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in
            [("gitVersion", KUBERNETES), ("gitMajor", major), ("gitMinor", minor), ("gitTreeState", "clean")]
        {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    flags
}

/// `pause.tar`: an OCI image layout with the one program in it.
fn pause_image(dir: &Path) -> Outcome {
    let write = |path: &Path, content: &[u8]| {
        fs::write(path, content).map_err(|e| format!("writing {}: {e}", path.display()))
    };
    let blobs = dir.join("image/blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|e| format!("making {}: {e}", blobs.display()))?;
    let blob = |media_type: &str, content: &[u8]| {
        let draft = dir.join("blob");
        write(&draft, content)?;
        let sum = output(&mut command("sha256sum", &[text(&draft)?]))?;
        let hex = sum.split(' ').next().unwrap_or_default();
        fs::rename(&draft, blobs.join(hex)).map_err(|e| format!("renaming {}: {e}", draft.display()))?;
        let digest = format!("sha256:{hex}");
        Ok::<_, Failure>(json!({"mediaType": media_type, "digest": digest, "size": content.len()}))
    };
    let tar = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "-cf"];
    run(command("tar", &[&tar[..], &["layer.tar", "pause"]].concat()).current_dir(dir))?;
    let layer = dir.join("layer.tar");
    let layer = fs::read(&layer).map_err(|e| format!("reading {}: {e}", layer.display()))?;
    let layer = blob("application/vnd.oci.image.layer.v1.tar", &layer)?;
    let config = json!({
        "architecture": output(&mut command("dpkg", &["--print-architecture"]))?,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer]});
    let mut manifest = blob(media_type, manifest.to_string().as_bytes())?;
    manifest["annotations"] = json!({"io.containerd.image.name": PAUSE});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    write(&dir.join("image/index.json"), index.to_string().as_bytes())?;
    write(&dir.join("image/oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    run(command("tar", &[&tar[..], &["pause.tar", "-C", "image", "."]].concat()).current_dir(dir))
}
