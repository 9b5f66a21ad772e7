//! Messages of `lock`: all that is missing at once, what has changed, what moved upstream, and what means nothing.

use std::fs;
use std::sync::{Arc, Mutex};

use bundler::digest::Digest;
use serde_json::json;

use crate::liar::{Liar, answer};
use crate::world::World;

/// A registry with one image of two repositories' names; its content is that of `content`.
async fn registry(content: Arc<Mutex<String>>) -> Liar {
    Liar::start(move |asked| {
        let config = content.lock().expect("a lock").clone();
        let config_digest = Digest::of(config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [],
            "config": {"mediaType": "application/x", "digest": config_digest, "size": config.len()},
        });
        let manifest = manifest.to_string();
        let digest = Digest::of(manifest.as_bytes()).to_string();
        let found = asked.target.strip_prefix("/v2/").and_then(|rest| rest.split_once('/'));
        Some(match found {
            Some(("app" | "web", rest)) if rest == "manifests/1" || rest == format!("manifests/{digest}") => {
                let media_type = "application/vnd.oci.image.manifest.v1+json";
                answer(200, &[("content-type", media_type), ("docker-content-digest", &digest)], manifest)
            }
            Some((_, rest)) if rest == format!("blobs/{config_digest}") => answer(200, &[], config),
            _ => answer(404, &[], ""),
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_missing_is_said_at_once() {
    let (liar, world) = (registry(Arc::default()).await, World::new());
    let (host, dead) = (&liar.host, crate::parts::free_port());
    world.spec(&format!(
        "[[image]]\nref = \"{host}/gone:1\"\n[[image]]\nref = \"{host}/app:1\"\n[[image]]\nref = \"{host}/lost:2\"\n\
         [[image]]\nref = \"127.0.0.1:{dead}/x:1\"\n[[image]]\nref = \"q.io/a:1\"\nfrom = \"oci:nowhere\"\n\
         [[file]]\nname = \"f\"\npath = \"absent\"\nsha256 = \"{}\"\n",
        Digest::of(b"").hex()
    ));
    let run = world.run(&["lock"]).exits(3).says("5 failures").says("hint:");
    let (gone, lost, unreached) =
        (format!("{host}/gone:1"), format!("{host}/lost:2"), format!("127.0.0.1:{dead}/x:1"));
    for text in [&*gone, &lost, &unreached, "nowhere", "absent"] {
        assert!(run.stderr.contains(text), "no {text} in {}", run.stderr);
    }
    assert!(!world.path("images.lock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moved_upstream_is_told_and_not_written() {
    let (content, world) = (Arc::new(Mutex::new("1".to_owned())), World::new());
    let liar = registry(content.clone()).await;
    let host = &liar.host;
    let (app, web) =
        (format!("[[image]]\nref = \"{host}/app:1\"\n"), format!("[[image]]\nref = \"{host}/web:1\"\n"));
    world.spec(&app);
    let first = world.run(&["lock"]).exits(0).stdout;
    assert!(first.contains(&format!("Added     image {host}/app:1 sha256:")), "{first}");
    let before = fs::read(world.path("images.lock")).expect("a lock");
    // The tag moves.
    "2".clone_into(&mut content.lock().expect("a lock"));
    let check = world.run(&["lock", "--check"]).exits(0).stdout;
    assert!(
        check.contains("Unchanged image") && check.contains("not compared: what the images' tags"),
        "{check}"
    );
    let outdated = world.run(&["lock", "--update", "--dry-run"]).exits(0).stdout;
    assert!(
        outdated.contains(&format!("Updated   image {host}/app:1 sha256:")) && outdated.contains(" -> "),
        "{outdated}"
    );
    assert!(outdated.contains("not written (--dry-run)") && outdated.contains("1 updated"), "{outdated}");
    world
        .run(&["lock", "--update", "--check"])
        .exits(1)
        .says("app:1 is sha256:")
        .says("airlock lock --update");
    let said = world.run(&["lock", "--json", "--update", "--dry-run"]).exits(0).json();
    let updated = &said["changes"]["updated"][0];
    assert_eq!((&updated["kind"], &updated["name"]), (&json!("image"), &json!(format!("{host}/app:1"))));
    assert_ne!(updated["old"]["digest"], updated["new"]["digest"]);
    assert_eq!((&said["dry_run"], &said["changed"]), (&json!(true), &json!(true)));
    assert_eq!(fs::read(world.path("images.lock")).expect("a lock"), before, "it was written");

    world.spec(&format!("{app}{web}"));
    let added = world.run(&["lock", "--update", "web"]).exits(1);
    added.says("no image, chart or file is called web");
    let both = world.run(&["lock", "--update"]).exits(0).stdout;
    assert!(both.contains("1 updated, 1 added, 0 removed, 0 unchanged"), "{both}");
    world.spec(&web);
    let removed = world.run(&["lock"]).exits(0).stdout;
    assert!(removed.contains(&format!("Removed   image {host}/app:1 sha256:")), "{removed}");
    let same = world.run(&["lock", "--update", "--dry-run"]).exits(0).stdout;
    assert!(same.contains("up to date") && !same.contains("not compared"), "{same}");
}

#[test]
fn a_pattern_that_means_no_image_is_refused() {
    let world = World::new();
    world.image("redis", &["linux/amd64"], b"redis");
    let lock = |pattern: &str| {
        world.spec(&format!(
            "[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n[[signed]]\nimages = [{pattern:?}]\nkeys = [\"k.pub\"]\n"
        ));
        world.run(&["lock"])
    };
    for pattern in ["docker.io/library/reids", "docker.io/libary/*", "redis", "docker.io/redis"] {
        lock(pattern)
            .exits(1)
            .says(&format!("no image of the bundle is called {pattern:?}"))
            .says("\"docker.io/library/redis\"");
    }
    lock("quay.io/*").exits(1).says("quay.io/*").says("hint:");
    // What means one goes on to the key.
    lock("docker.io/*").exits(1).says("k.pub");
}

#[test]
fn an_environment_variable_is_called_by_its_name() {
    let world = World::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: a\n    image: redis:8\n    env:\n    \
               - {name: OTHER, value: x}\n    - {name: WORK_IMAGE, value: 'quay.io/a/work:1'}\n";
    world.write("pod.yaml", pod.as_bytes());
    let listed = world.run(&["discover", "--offline", "pod.yaml"]).exits(0).stdout;
    assert!(listed.contains("env[1].value (env WORK_IMAGE)"), "{listed}");
    assert!(!listed.contains("image (env"), "{listed}");
}

/// An OCI layout whose index has these platforms; the digests of its manifests.
fn index(world: &World, name: &str, platforms: &[serde_json::Value]) -> Vec<String> {
    let root = world.path(name);
    let mut children = Vec::new();
    for (n, platform) in platforms.iter().enumerate() {
        let config = if platform["os"] == "windows" {
            json!({"os": "windows", "architecture": "amd64", "n": n})
        } else {
            json!({"os": "linux", "architecture": "amd64", "n": n})
        };
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = crate::world::blob(&root, kind, config.to_string().as_bytes());
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": []});
        let mut child = crate::world::blob(&root, kind, manifest.to_string().as_bytes());
        if !platform.is_null() {
            child["platform"] = platform.clone();
        }
        children.push(child);
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": children});
    let index = crate::world::blob(&root, kind, index.to_string().as_bytes());
    fs::write(root.join("index.json"), json!({"schemaVersion": 2, "manifests": [index]}).to_string())
        .expect("a file");
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a file");
    children.iter().map(|child| child["digest"].as_str().expect("a digest").to_owned()).collect()
}

#[test]
fn the_platform_that_fits_best_is_pinned() {
    let on = |os: &str, architecture: &str, variant: &str| json!({"os": os, "architecture": architecture, "variant": variant});
    let windows = |version: &str| json!({"os": "windows", "architecture": "amd64", "os.version": version});
    let (amd64, v2) = (|| on("linux", "amd64", ""), || on("linux", "amd64", "v2"));
    let unknown = || on("unknown", "unknown", "");
    let builds = || vec![windows("10.0.17763.1"), windows("10.0.20348.9"), windows("10.0.20348.10")];
    for (has, wanted, chosen) in [
        (vec![v2(), amd64(), unknown()], "linux/amd64", 1),
        (vec![amd64(), v2()], "linux/amd64/v2", 1),
        (vec![amd64(), amd64()], "linux/amd64", 0),
        (vec![unknown(), serde_json::Value::Null], "linux/amd64", 1),
        (vec![on("linux", "arm64", "v8")], "linux/arm64", 0),
        (vec![on("linux", "arm64", "")], "linux/arm64/v8", 0),
        (vec![on("linux", "arm", "v5"), on("linux", "arm", "v6")], "linux/arm/v7", 1),
        (builds(), "windows/amd64", 2),
        (builds(), "windows(10.0.17763)/amd64", 0),
        (builds(), "windows(10.0.20348.9)/amd64", 1),
    ] {
        let world = World::new();
        let digests = index(&world, "image", &has);
        let spec = format!(
            "name = \"a\"\nversion = \"1\"\nplatforms = [\"{wanted}\"]\n[[image]]\nref = \"q.io/a:1\"\nfrom = \"oci:image\"\n"
        );
        world.write("bundle.toml", spec.as_bytes());
        world.run(&["lock"]).exits(0);
        let lock = fs::read_to_string(world.path("images.lock")).expect("a lock");
        assert!(lock.contains(&format!("\ndigest = \"{}\"", digests[chosen])), "{has:?} {wanted}: {lock}");
        world.keys("airlock");
        world.build("b.tar");
        world.run(&["verify", "b.tar", "--key", "airlock.pub"]).exits(0);
    }
    // Two versions side by side, and all of them.
    for platforms in ["\"windows(10.0.17763)/amd64\", \"windows(10.0.20348)/amd64\"", "\"all\""] {
        let world = World::new();
        let digests = index(&world, "image", &builds());
        let spec = format!(
            "name = \"a\"\nversion = \"1\"\nplatforms = [{platforms}]\n[[image]]\nref = \"q.io/a:1\"\nfrom = \"oci:image\"\n"
        );
        world.write("bundle.toml", spec.as_bytes());
        world.run(&["lock"]).exits(0);
        let lock = fs::read_to_string(world.path("images.lock")).expect("a lock");
        for (version, n) in [("10.0.17763.1", 0), ("10.0.20348.10", 2)] {
            assert!(lock.contains(&format!("\"windows({version})/amd64\" = \"{}\"", digests[n])), "{lock}");
        }
        world.keys("airlock");
        world.build("b.tar");
        world.run(&["verify", "b.tar", "--key", "airlock.pub"]).exits(0);
    }
    let world = World::new();
    index(&world, "image", &[v2(), on("linux", "amd64", "v3")]);
    world.spec("[[image]]\nref = \"q.io/a:1\"\nfrom = \"oci:image\"\n");
    world.run(&["lock"]).exits(1).says("name the variant").says("linux/amd64/v2, linux/amd64/v3");
}
