//! `airlock lock` against real registries and a chart repository over HTTP.

use std::fs;

use super::{BUSYBOX, airlock, lock_of, part, path, tool};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs real parts: cargo xtask test"]
async fn a_chart_from_a_repository_over_http_is_the_one_from_its_file() {
    let world = World::new();
    let (upstream, version) = (part("AIRLOCK_TEST_WEB_CHART"), part("AIRLOCK_TEST_WEB_CHART_VERSION"));
    let packed = world.path("repository/sub");
    fs::create_dir_all(&packed).expect("a directory");
    tool(&packed, "helm", &["pull", &upstream, "--version", &version, "--plain-http"]).exits(0);
    // URLs in the index are relative to it.
    tool(&world.path("repository"), "helm", &["repo", "index", "."]).exits(0);
    let index = fs::read_to_string(world.path("repository/index.yaml")).expect("helm's index");
    assert!(index.contains(&format!("- sub/web-{version}.tgz")), "{index}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let repository = warp::fs::dir(world.path("repository"));
    let server = tokio::spawn(warp::serve(repository).incoming(listener).run());

    world.keys("airlock");
    let lock = |chart: &str| {
        world.spec(&format!("[[chart]]\n{chart}"));
        airlock(&world, &["lock"])
    };
    lock(&format!("path = \"repository/sub/web-{version}.tgz\"\n")).exits(0);
    let by_path = lock_of(&world, "images.lock");
    let repo =
        |version: &str| format!("repo = \"http://{address}/\"\nchart = \"web\"\nversion = \"{version}\"\n");
    lock(&repo(&version)).exits(0);
    let by_repo = lock_of(&world, "images.lock");
    assert_eq!(by_repo.charts[0].digest, by_path.charts[0].digest);
    assert_eq!(by_repo.charts[0].from, format!("http://{address}/sub/web-{version}.tgz"));
    assert_eq!(by_repo.images, by_path.images);
    airlock(&world, &["build", "--key", "airlock.key", "--output", "b.tar"]).exits(0);
    world.run(&["verify", "b.tar", "--key", "airlock.pub"]).exits(0);

    lock(&repo("9.9.9")).exits(1).says("no such version").says(&version);
    lock(&repo(&version).replace("\"web\"", "\"wab\"")).exits(1).says("no chart of this name");

    // A version that was published again with other content is refused, not taken.
    lock(&repo(&version)).exits(0);
    let file = packed.join(format!("web-{version}.tgz"));
    fs::remove_file(&file).expect("removed");
    tool(&packed, "helm", &["create", "web"]).exits(0);
    tool(&packed, "helm", &["package", "web", "--version", &version]).exits(0);
    assert!(file.exists());
    lock(&repo(&version)).exits(2).says("must not change").says("--update web");
    // Nor under another address.
    fs::rename(&file, packed.join("other.tgz")).expect("renamed");
    fs::write(
        world.path("repository/index.yaml"),
        index.replace(&format!("sub/web-{version}.tgz"), "sub/other.tgz"),
    )
    .expect("an index");
    lock(&repo(&version)).exits(2).says("must not change").says("other.tgz");
    let elsewhere = index.replace(&format!("sub/web-{version}.tgz"), "http://ann:secret@127.0.0.1:9/web.tgz");
    fs::write(world.path("repository/index.yaml"), elsewhere).expect("an index");
    lock(&repo(&version)).exits(1).says("an address with a user in it");
    // Another chart, or another version, than was asked for.
    for (from, to, chart, asked) in [
        ("  web:\n".to_owned(), "  wab:\n", "wab", &*version),
        (format!("version: {version}\n"), "version: 9.9.9\n", "web", "9.9.9"),
    ] {
        let changed = index.replace(&from, to).replace(&format!("sub/web-{version}.tgz"), "sub/other.tgz");
        assert_ne!(changed, index);
        fs::write(world.path("repository/index.yaml"), changed).expect("an index");
        let run = lock(&repo(asked).replace("\"web\"", &format!("{chart:?}")));
        run.exits(1).says(&format!("it is web {version}, and {chart} {asked} was asked for"));
    }
    server.abort();
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn what_upstream_does_not_have_is_named_with_what_to_do() {
    let world = World::new();
    let lock = |reference: &str| {
        world.spec(&format!("[[image]]\nref = \"{reference}\"\n"));
        airlock(&world, &["lock"])
    };
    let upstream = part("AIRLOCK_TEST_UPSTREAM");
    for reference in ["docker.io/library/absent:1", "docker.io/library/busybox:9.9"] {
        lock(reference)
            .exits(3)
            .says(reference)
            .says("404")
            .says(&format!("hint: {upstream} does not have it"));
    }
    // A port on which nobody listens.
    let port = crate::parts::free_port();
    lock(&format!("127.0.0.1:{port}/a/b:1"))
        .exits(3)
        .says(&format!("127.0.0.1:{port}/a/b:1"))
        .says("refused");
    assert!(!world.path("images.lock").exists(), "a lock of nothing");

    let spec = format!(
        "name = \"a\"\nversion = \"1\"\nplatforms = [\"linux/s390x\"]\n[[image]]\nref = \"{BUSYBOX}\"\n"
    );
    world.write("bundle.toml", spec.as_bytes());
    let none = airlock(&world, &["lock"]).exits(1);
    none.says(BUSYBOX).says("linux/s390x").says("linux/amd64, linux/arm64").says("hint: change `platforms`");
    assert!(!std::path::Path::new(&path(&world, "images.lock")).exists());
}

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn texts_that_stand_nowhere_are_refused() {
    let world = World::new();
    world.write("c/Chart.yaml", b"apiVersion: v2\nname: c\nversion: 1.0.0\n");
    let map =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {a: 'quay.io/a/tool:1', plain: tool}\n";
    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\ndata: {b: aGlkZGVu}\n";
    world.write("c/templates/a.yaml", format!("{map}{secret}").as_bytes());
    world.image("redis", &["linux/amd64"], b"redis");
    let lock = |entry: &str| {
        world.spec(&format!(
            "[[image]]\nref = \"redis:8\"\nfrom = \"oci:redis\"\n[[chart]]\npath = \"c\"\n{entry}\n"
        ));
        airlock(&world, &["lock"])
    };
    let ignore = |text: &str| format!("ignore = [{{text = {text:?}, reason = \"none\"}}]");
    let meaning = |text: &str| format!("map = [{{text = {text:?}, ref = \"redis:8\"}}]");
    lock(&ignore("quay.io/a/tol:1")).exits(1).says("`ignore`").says("did you mean \"quay.io/a/tool:1\"");
    lock(&meaning("quay.io/b/tool:1")).exits(1).says("`map`").says("did you mean \"quay.io/a/tool:1\"");
    lock(&meaning("nothing")).exits(1).says("`map` has texts that stand nowhere: \"nothing\"").says("hint:");
    lock(&ignore("quay.io/a/tool:1")).exits(0);
    // As `rewrite` finds them: a whole text, also in a Secret.
    for text in ["quay.io/a/tool:1", "tool", "hidden"] {
        lock(&meaning(text)).exits(0);
    }
}
