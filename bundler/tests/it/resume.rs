//! A build that was killed, stopped or cut off, and the next one, which fetches only what is missing.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bundler::archive::BLOCK;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use warp::reply::Response;

use crate::faults::{Content, Upstream, ask_for, stop, wait_until};
use crate::liar::{Asked, answer, broken_off, streamed};
use crate::limits::big_image;
use crate::world::{Run, World, names};

const MIB: usize = 1 << 20;
/// Bytes of the large layer that come before it stalls.
const BEFORE: usize = 5 * MIB + 1000;
const BUILD: [&str; 6] = ["build", "--unsigned", "--output", "app.tar", "--json", "--verbose"];

/// A registry with a small image and one of some 8 MiB, and a lock of both.
struct Scene {
    world: World,
    upstream: Upstream,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new();
        // Nothing that gzip makes smaller.
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        });
        world.image("large", &["linux/amd64"], &noise.take(8 * MIB).collect::<Vec<_>>());
        world.image("small", &["linux/amd64"], b"small");
        ask_for(&world, &["small", "large"]);
        let upstream = Upstream::of(&world).await;
        upstream.run(&world, &["lock"]).exits(0);
        Self { world, upstream }
    }

    /// Has the registry send the large layer up to [`BEFORE`] bytes, and then nothing.
    fn stall(&self) {
        self.upstream.layers(|asked, content| match content.bytes.len() {
            ..MIB => content.answer(),
            size => {
                let start = stream::iter([Ok(content.bytes.slice(first(asked)..BEFORE))]);
                Some(streamed(200, &[("content-length", &size.to_string())], start.chain(stream::pending())))
            }
        });
    }

    /// Has it serve ranges, too.
    fn serve(&self) {
        self.upstream.layers(ranged);
    }

    fn build(&self) -> Run {
        self.upstream.run(&self.world, &BUILD)
    }

    /// A build that is ended by a signal when the small layer is there, and much of the large one.
    fn interrupted(&self, signal: &str) -> Run {
        self.stall();
        let child =
            self.upstream.command(&self.world, &BUILD).stderr(Stdio::piped()).spawn().expect("airlock");
        wait_until("much is fetched", || {
            let journal = fs::read_to_string(self.journal()).unwrap_or_default();
            written(&journal) >= 3 * MIB && entries(&journal) >= 2
        });
        let run = stop(child, signal);
        self.upstream.liar.forget();
        self.serve();
        run
    }

    fn journal(&self) -> PathBuf {
        self.world.path("app.tar.partial.journal")
    }

    /// Of each layer that was asked for the first byte.
    fn layers_asked(&self) -> Vec<usize> {
        let is_layer = |target: &str| {
            let blob = target.trim_start_matches("/v2/").split_once("/blobs/sha256:");
            blob.is_some_and(|(repository, digest)| {
                let path = self.world.path(repository).join("blobs/sha256").join(digest);
                !fs::read(path).expect("the blob").starts_with(b"{")
            })
        };
        self.upstream.liar.asked().iter().filter(|asked| is_layer(&asked.target)).map(first).collect()
    }

    /// The bundle as it should be, made by a build that nothing interrupted.
    fn whole(&self) -> Vec<u8> {
        self.serve();
        self.upstream.run(&self.world, &["build", "--unsigned", "--output", "whole.tar"]).exits(0);
        fs::read(self.world.path("whole.tar")).expect("the bundle")
    }

    #[track_caller]
    fn is_whole(&self) {
        let built = fs::read(self.world.path("app.tar")).expect("the bundle");
        assert!(built == self.whole(), "it is another bundle");
        let left = names(&self.world.path(""));
        assert!(left.iter().all(|name| !name.contains("partial")), "{left:?}");
    }
}

/// The largest number of bytes that a journal tells of.
fn written(journal: &str) -> usize {
    journal.lines().filter_map(|line| line.split_once(' ')?.1.parse().ok()).max().unwrap_or_default()
}

/// Returns the number of entries that a journal tells of.
fn entries(journal: &str) -> usize {
    let records = journal.lines().filter_map(|line| line.split_once(' '));
    let indexes: BTreeSet<_> = records.filter_map(|(index, _)| index.parse::<usize>().ok()).collect();
    indexes.len()
}

fn first(asked: &Asked) -> usize {
    wanted(asked, usize::MAX).start
}

/// What is asked for of a blob of `size` bytes.
fn wanted(asked: &Asked, size: usize) -> Range<usize> {
    let Some(range) = asked.header("range") else { return 0..size };
    let (first, last) = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).expect("a range");
    let number = |text: &str| text.parse::<usize>().expect("a number");
    number(first)..if last.is_empty() { size } else { number(last) + 1 }
}

fn ranged(asked: &Asked, content: &Content) -> Option<Response> {
    let size = content.bytes.len();
    let wanted = wanted(asked, size);
    if asked.header("range").is_none() {
        return content.answer();
    }
    let range = format!("bytes {}-{}/{size}", wanted.start, wanted.end - 1);
    Some(answer(206, &[("content-range", &range)], content.bytes.slice(wanted)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_killed_fetches_the_rest_only() {
    let scene = Scene::new().await;
    for signal in ["KILL", "TERM"] {
        let run = scene.interrupted(signal);
        if signal == "TERM" {
            run.exits(143).says("building: stopped by SIGTERM").says("the same command goes on");
        }
        assert!(!scene.world.path("app.tar").exists());
        let told = written(&fs::read_to_string(scene.journal()).expect("the journal"));
        let built = scene.build().exits(0).json();
        assert_eq!(scene.layers_asked(), [told], "after SIG{signal}");
        assert!(built["resumed"].as_u64().is_some_and(|bytes| bytes > told as u64), "{built}");
        scene.is_whole();
        fs::remove_file(scene.world.path("app.tar")).expect("removed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_the_network_failed_fetches_the_rest_only() {
    let scene = Scene::new().await;
    scene.upstream.layers(|_, content| match content.bytes.len() {
        ..MIB => content.answer(),
        _ => Some(streamed(200, &[], broken_off(&content.bytes[..3 * MIB]))),
    });
    scene.build().exits(3);
    assert!(entries(&fs::read_to_string(scene.journal()).expect("the journal")) >= 2);
    scene.upstream.liar.forget();
    scene.serve();
    scene.build().exits(0);
    assert!(matches!(scene.layers_asked()[..], [first] if first > 2 * MIB), "{:?}", scene.layers_asked());
    scene.is_whole();
}

/// A crash of the system can lose what was written before, and keep what was written after.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_what_is_not_there_is_fetched_again() {
    let scene = Scene::new().await;
    scene.interrupted("KILL");
    let told = written(&fs::read_to_string(scene.journal()).expect("the journal"));
    let partial = fs::OpenOptions::new().write(true).open(scene.world.path("app.tar.partial"));
    let partial = partial.expect("the unfinished bundle");
    // Everything behind the first blocks is lost.
    let size = partial.metadata().expect("its size").len();
    partial.write_all_at(&vec![0; (size - 64 * BLOCK) as usize], 64 * BLOCK).expect("written");
    let built = scene.build().exits(0).json();
    assert_eq!(built["resumed"], 0);
    let asked = scene.layers_asked();
    assert!(asked.contains(&0) && asked.contains(&told), "{asked:?}");
    scene.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_journal_makes_no_other_bundle() {
    let scene = Scene::new().await;
    let whole = scene.whole();
    let built = scene.build().exits(0).json();
    let manifest = built["manifest_digest"].as_str().expect("a digest").to_owned();
    let inspected = scene.upstream.run(&scene.world, &["inspect", "app.tar", "--json"]).exits(0).json();
    let listed = inspected["manifest"]["entries"].as_array().expect("entries").clone();
    let all: String =
        listed.iter().enumerate().map(|(n, entry)| format!("{n} {}\n", entry["size"])).collect();
    let last = whole.iter().rposition(|byte| *byte != 0).expect("content");
    let changed = |at: &[usize]| {
        let mut bytes = whole.clone();
        at.iter().for_each(|at| bytes[*at] ^= 1);
        bytes
    };
    let length = whole.len();
    let damages = [
        ("nothing of it is right", vec![0xff; length]),
        ("a byte of a layer", changed(&[last])),
        ("padding", changed(&[last + 1])),
        ("the end", changed(&[length - 1])),
        ("a header", changed(&[512 * 2 + 100])),
        ("nothing", whole.clone()),
    ];
    for (what, bytes) in damages {
        fs::remove_file(scene.world.path("app.tar")).expect("removed");
        scene.world.write("app.tar.partial", &bytes);
        scene.world.write(
            "app.tar.partial.journal",
            format!("airlock build 2\nmanifest {manifest}\n{all}").as_bytes(),
        );
        scene.build().exits(0);
        let built = fs::read(scene.world.path("app.tar")).expect("the bundle");
        assert!(built == whole, "{what}: it is another bundle");
    }
    scene.is_whole();
}

#[test]
fn an_unfinished_file_of_others_is_not_taken_over() {
    type Make = fn(&Path, &Path);
    let world = World::with_bundle();
    world.write("precious", b"precious");
    let make: [(&str, Make); 6] = [
        ("symbolic link", |path, precious| std::os::unix::fs::symlink(precious, path).expect("a link")),
        ("hard link", |path, precious| fs::hard_link(precious, path).expect("a link")),
        ("belongs to another user (uid 12345", |path, _| {
            fs::write(path, b"").expect("written");
            std::os::unix::fs::chown(path, Some(12345), None).expect("root's right to give files away");
        }),
        ("others may write to it (mode 666)", |path, _| {
            fs::write(path, b"").expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("a mode");
        }),
        ("others may write to it (mode 620)", |path, _| {
            fs::write(path, b"").expect("written");
            fs::set_permissions(path, fs::Permissions::from_mode(0o620)).expect("a mode");
        }),
        ("not a regular file", |path, _| {
            assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        }),
    ];
    for name in ["b.tar.partial", "b.tar.partial.journal"] {
        for (says, make) in make {
            make(&world.path(name), &world.path("precious"));
            let run = world.run(&["build", "--unsigned", "--output", "b.tar"]);
            run.exits(1).says(name).says(says).says("hint: delete it");
            assert!(!world.path("b.tar").exists(), "{name}: {says}");
            assert_eq!(fs::read(world.path("precious")).expect("the file"), b"precious");
            fs::remove_file(world.path(name)).expect("it was left alone");
        }
    }
    world.run(&["build", "--unsigned", "--output", "b.tar"]).exits(0);
}

/// A bundle is read before it gets its name, so what the site would refuse is refused where it can be built again.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_would_refuse_gets_no_name() {
    let scene = Scene::new().await;
    scene.whole();
    let path = scene.world.path("app.tar.partial");
    scene.upstream.layers(move |_, content| {
        // Somebody else writes to the file; its headers are there before the first layer.
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("the unfinished bundle");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 100).expect("read");
        file.write_all_at(&[byte[0] | 0x80], 100).expect("written");
        content.answer()
    });
    scene.build().exits(2).says("checking what was built, as `airlock verify` will");
    let left = names(&scene.world.path(""));
    assert!(left.iter().all(|name| !name.starts_with("app.tar")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_knows_no_ranges_sends_all_of_it_once_more() {
    let scene = Scene::new().await;
    scene.interrupted("KILL");
    scene.upstream.honest();
    scene.build().exits(0);
    scene.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_bundle_does_not_go_on_with_what_is_there() {
    let scene = Scene::new().await;
    scene.interrupted("KILL");
    ask_for(&scene.world, &["large"]);
    scene.upstream.run(&scene.world, &["lock"]).exits(0);
    scene.upstream.liar.forget();
    let built = scene.build().exits(0).json();
    assert_eq!((built["resumed"].as_u64(), scene.layers_asked()), (Some(0), vec![0]));
    scene.is_whole();
}

/// Bytes that a lying registry sent are not gone on from.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_what_its_digest_says_is_thrown_away() {
    let scene = Scene::new().await;
    scene.interrupted("KILL");
    scene.upstream.layers(|asked, content| {
        let mut bytes = content.bytes.to_vec();
        *bytes.last_mut()? ^= 1;
        ranged(asked, &Content { bytes: Bytes::from(bytes), ..content.clone() })
    });
    scene.build().exits(2).says("its content is sha256:");
    let left = names(&scene.world.path(""));
    assert!(left.iter().all(|name| !name.contains("app.tar")), "{left:?}");
    scene.serve();
    scene.build().exits(0);
    scene.is_whole();
}

/// A part of a blob that is asked for, in bytes.
const PART: usize = 16 * MIB;

/// A scene whose one image has a layer of five parts and a bit.
async fn large() -> Scene {
    let world = World::new();
    big_image(&world.path("large"), 1, 81 * MIB as u64);
    ask_for(&world, &["large"]);
    let upstream = Upstream::of(&world).await;
    upstream.run(&world, &["lock"]).exits(0);
    upstream.liar.forget();
    Scene { world, upstream }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_large_blob_is_fetched_in_parts() {
    let scene = large().await;
    scene.serve();
    scene.build().exits(0);
    let size = 81 * MIB;
    let mut parts: Vec<_> = scene
        .upstream
        .liar
        .asked()
        .iter()
        .filter(|a| a.header("range").is_some())
        .map(|a| wanted(a, size))
        .collect();
    parts.sort_by_key(|part| part.start);
    assert!(parts.len() >= 5 && parts[0].start < MIB, "{parts:?}");
    assert!(parts.windows(2).all(|two| two[0].end == two[1].start), "{parts:?}");
    assert!(parts.iter().all(|part| part.len() == PART || part.end == size), "{parts:?}");
    scene.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_t_be_had_in_parts_comes_as_a_whole() {
    let scene = large().await;
    // No ranges at all; parts that are too short, too long; a part that is refused.
    scene.upstream.honest();
    scene.build().exits(0);
    scene.is_whole();
    for (index, status) in [(0, 206), (1, 206), (2, 416)] {
        fs::remove_file(scene.world.path("app.tar")).expect("removed");
        scene.upstream.layers(move |asked, content| {
            let wanted = wanted(asked, content.bytes.len());
            if wanted.end == content.bytes.len() || wanted.start < 2 * PART {
                return ranged(asked, content);
            }
            let range = format!("bytes {}-{}/*", wanted.start, wanted.end - 1);
            let length = [wanted.len() - 1, wanted.len() + 1, 0][index];
            Some(answer(
                status,
                &[("content-range", &range)],
                content.bytes.slice(wanted.start..wanted.start + length),
            ))
        });
        scene.build().exits(0);
        scene.is_whole();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_was_killed_amid_parts_loses_only_those() {
    let scene = large().await;
    // The fourth part never ends.
    scene.upstream.layers(|asked, content| {
        let wanted = wanted(asked, content.bytes.len());
        if asked.header("range").is_some() && (3 * PART..4 * PART).contains(&wanted.start) {
            let start = stream::iter([Ok(content.bytes.slice(wanted.start..wanted.start + MIB))]);
            let range = format!("bytes {}-{}/*", wanted.start, wanted.end - 1);
            return Some(streamed(206, &[("content-range", &range)], start.chain(stream::pending())));
        }
        ranged(asked, content)
    });
    let child = scene.upstream.command(&scene.world, &BUILD).stderr(Stdio::piped()).spawn().expect("airlock");
    wait_until("three parts are there", || {
        written(&fs::read_to_string(scene.journal()).unwrap_or_default()) >= 3 * PART
    });
    stop(child, "KILL");
    scene.upstream.liar.forget();
    scene.serve();
    let built = scene.build().exits(0).json();
    assert!(built["resumed"].as_u64().is_some_and(|bytes| bytes >= 3 * PART as u64), "{built}");
    let asked = scene.upstream.liar.asked();
    let lowest = asked.iter().filter(|asked| asked.header("range").is_some()).map(first).min();
    assert!(lowest.is_some_and(|first| first >= 3 * PART), "{lowest:?}");
    scene.is_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_not_fetched_again() {
    let scene = Scene::new().await;
    let keep = [&BUILD[..], &["--keep-blobs"]].concat();
    let build = |args: &[&str]| scene.upstream.run(&scene.world, args).exits(0);
    let cached = || {
        let blobs = scene.world.path("cache/airlock/blobs/sha256");
        let sizes = names(&blobs).into_iter().map(move |name| (fs::metadata(blobs.join(&name)), name));
        sizes
            .filter(|(metadata, _)| metadata.as_ref().is_ok_and(|m| m.len() > MIB as u64))
            .map(|(_, name)| name)
            .collect::<Vec<_>>()
    };
    build(&BUILD);
    assert!(!scene.world.path("cache/airlock/blobs").exists(), "nothing is kept unasked");
    build(&keep);
    assert_eq!(cached().len(), 1);
    scene.upstream.liar.forget();
    build(&BUILD);
    assert_eq!(scene.layers_asked(), [0; 0]);
    scene.is_whole();

    let path = scene.world.path("cache/airlock/blobs/sha256").join(&cached()[0]);
    for damage in [&b"short"[..], &vec![0; 9 * MIB]] {
        fs::write(&path, damage).expect("written");
        scene.upstream.liar.forget();
        build(&BUILD);
        assert_eq!(scene.layers_asked().len(), 1, "the damaged one");
        scene.is_whole();
    }
}
