//! How much work is done, by count: requests, bytes that are read and written. Time would say the same, less surely.

use std::collections::BTreeSet;

use bundler::digest::Digest;

use crate::parts::Registry;
use crate::world::World;

#[test]
#[ignore = "needs real parts: cargo xtask test"]
fn a_push_of_what_is_there_asks_once_for_each_image_chart_and_file() {
    const IMAGES: usize = 100;
    let world = World::new();
    world.keys("airlock");
    world.write("web/Chart.yaml", b"apiVersion: v2\nname: web\nversion: 1.0.0\n");
    world.write("notes.txt", b"read me\n");
    let mut spec = format!(
        "[[chart]]\npath = \"web\"\nrelease = \"web\"\n[[file]]\nname = \"notes.txt\"\npath = \"notes.txt\"\nsha256 = \"{}\"\n",
        Digest::of(b"read me\n").hex()
    );
    for n in 0..IMAGES {
        let name = format!("app{n}");
        world.image(&name, &["linux/amd64"], name.as_bytes());
        spec += &format!("[[image]]\nref = \"{name}:1\"\nfrom = \"oci:{name}\"\n");
    }
    world.spec(&spec);
    world.run(&["lock"]).exits(0);
    world.build("app.tar");
    let registry = Registry::start();
    let push = || {
        let run = world.run(&["push", "app.tar", &registry.host(), "--key", "airlock.pub", "--json"]);
        run.exits(0).json()["unchanged"].as_u64().expect("a number")
    };
    assert_eq!(push(), 0);
    let before = registry.requests().len();
    assert_eq!(push(), IMAGES as u64 + 2);
    let asked = registry.requests().split_off(before);
    assert_eq!(asked.len(), IMAGES + 2, "{asked:?}");
    let unique: BTreeSet<_> = asked.iter().filter(|asked| asked.starts_with("HEAD /v2/")).collect();
    assert_eq!(unique.len(), asked.len(), "{asked:?}");
}
