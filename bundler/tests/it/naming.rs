//! Names at the site's registry: flat ones for registries that allow two levels of path, and addresses in brackets.

use bundler::reference::{Mapping, Reference};
use bundler::registry::{Client, Options};

use crate::world::{Served, World};

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: a, image: 'redis:8'}\n  \
                   - {name: b, image: 'quay.io/a/web:1.0'}\n";

fn rewritten(world: &World, more: &[&str]) -> String {
    world.write("pod.yaml", POD.as_bytes());
    let mut command = world.command(&["rewrite", "--bundle", "app.tar", "--key", "airlock.pub"]);
    let stdin = std::fs::File::open(world.path("pod.yaml")).expect("manifests");
    let run = command.args(more).stdin(stdin).output().expect("airlock");
    crate::world::Run::from(run).exits(0).stdout
}

fn images(manifests: &str) -> Vec<Reference> {
    let texts = manifests.split(['\'', '"', ' ', ',', '}', '\n']).filter(|word| word.contains("@sha256:"));
    texts.map(|text| text.parse().expect(text)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn flat_names_are_the_same_in_every_verb() {
    let world = World::with_bundle();
    let store = Served::store(&world, "store", &[]);
    let target = format!("{}/acme", store.host);
    for _ in 0..2 {
        world.run(&["push", "app.tar", "--registry", &target, "--flat", "--key", "airlock.pub"]).exits(0);
    }
    let client = Client::new(&Options::default()).expect("a client");
    let text = rewritten(&world, &["--registry", &target, "--flat"]);
    assert!(text.contains(&format!("{target}/docker.io--library--redis:8@sha256:")), "{text}");
    let found = images(&text);
    assert_eq!(found.len(), 2, "{text}");
    for image in &found {
        assert_eq!(image.repository().matches('/').count(), 1, "{image}");
        let repository = client.repository(image.registry(), image.repository());
        for reference in [image.tag().expect("a tag").to_owned(), image.tag_or_digest()] {
            let digest = repository.head_manifest(&reference).await.expect("asked");
            assert_eq!(digest.as_ref(), image.digest(), "{image}");
        }
    }
    let files = client.repository(&store.host, "acme/files--notes.txt");
    assert!(files.head_manifest("1.0.0").await.expect("asked").is_some());
    let mapping = Mapping::new(&target, false).expect("a mapping").flat(true);
    assert_eq!(mapping.repository(&"redis:8".parse().expect("a reference")), found[0].repository());
    // Served from the bundle, the flat names lead to the same.
    let served = Served::start(&world, "app.tar");
    for image in images(&rewritten(&world, &["--registry", &served.host, "--flat"])) {
        let repository = client.repository(image.registry(), image.repository());
        assert_eq!(
            repository.head_manifest(&image.tag_or_digest()).await.expect("asked").as_ref(),
            image.digest()
        );
    }
    for runtime in ["containerd", "k3s", "rke2", "crio", "docker"] {
        let args = ["mirrors", runtime, "app.tar", "--key", "airlock.pub", "--registry", &target, "--flat"];
        world.run(&args).exits(1).says("no common place").says("hint: use references");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ipv6_address_is_a_registry_like_others() {
    let world = World::with_bundle();
    let store = Served::store(&world, "store", &["--listen", "[::1]:0"]);
    assert!(store.host.starts_with("[::1]:"), "{}", store.host);
    let target = format!("{}/mirror", store.host);
    world
        .run(&["push", "app.tar", "--registry", &target, "--plain-http", &store.host, "--key", "airlock.pub"])
        .exits(0);
    world.run(&["push", "app.tar", "--registry", &target, "--key", "airlock.pub"]).exits(0);
    let text = rewritten(&world, &["--registry", &target]);
    assert!(text.contains(&format!("{target}/docker.io/library/redis:8@sha256:")), "{text}");
    let args = [
        "mirrors",
        "containerd",
        "app.tar",
        "--key",
        "airlock.pub",
        "--registry",
        &target,
        "--output",
        "node",
    ];
    world.run(&args).exits(0);
    let hosts = std::fs::read_to_string(world.path("node/etc/containerd/certs.d/quay.io/hosts.toml"))
        .expect("a file");
    assert!(
        hosts.contains(&format!("https://{target}/"))
            || hosts.contains(&format!("://{}/v2/mirror", store.host)),
        "{hosts}"
    );
    hosts.parse::<toml::Table>().expect("TOML");
    let crio = ["mirrors", "crio", "app.tar", "--key", "airlock.pub", "--registry", &target];
    world.run(&crio).exits(0);

    // As the source of a bundle.
    let (source, other) = (format!("{target}/docker.io/library/redis:8"), World::new());
    other.spec(&format!("[[image]]\nref = \"{source}\"\n"));
    other.keys("airlock");
    other.run(&["lock"]).exits(0);
    other.build("b.tar");
    let named = other.run(&["inspect", "b.tar", "--json"]).exits(0).stdout;
    assert!(named.contains("ip6__0-0-0-0-0-0-0-1_") || named.contains("[::1]"), "{named}");
    let again = Served::store(&other, "store", &["--listen", "[::1]:0"]);
    other.run(&["push", "b.tar", &again.host, "--key", "airlock.pub"]).exits(0);
    // A login is found by the address.
    let locked = Served::store(&other, "locked", &["--listen", "[::1]:0"]);
    other.run(&["push", "b.tar", &format!("{}/x", locked.host), "--key", "airlock.pub"]).exits(0);
    for bad in ["::1/x", "fd00::1", "[::1", "[::g]:5000"] {
        other.run(&["push", "b.tar", bad, "--key", "airlock.pub"]).exits(1);
    }
}
