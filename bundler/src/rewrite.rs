//! Manifests -> manifests that name every image of the bundle where it is at the site, and the gate behind that.
//!
//! A reference of the lock is rewritten wherever [`mention::walk`] sees it: pod specs, args and commands, environment,
//! custom resources (in one piece or as `registry`, `repository`, `tag`, `digest` fields), annotations, and payloads of
//! ConfigMaps and Secrets. Any spelling counts (`redis:8` for `docker.io/library/redis:8`), but outside of pod specs and keys that
//! say image a text without tag and digest is never taken for an image. What is at the site already, and what is not
//! in the lock, stays; every other byte stays too. Twice is the same as once.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Serialize;

use crate::digest::Digest;
use crate::discover::mention::{self, Exchange, Fields, Mention, Role, Slot, Spelling, Visitor};
use crate::error::{Error, Result};
use crate::reference::{Mapping, Reference};
use crate::yaml::{Stream, documents};

mod pins;
mod secrets;

pub use pins::{Pin, Pins};
pub use secrets::with_pull_secret;

/// Rewritten manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// The stream, the same but for the references.
    pub text: String,
    /// What was changed, in the order of the stream.
    pub changes: Vec<Change>,
}

/// Rewritten manifests that nothing points outside in.
#[derive(Clone, Debug)]
pub struct Checked<'m> {
    /// The stream, in pieces: what was changed, and between that the source.
    pub pieces: Vec<Cow<'m, str>>,
    /// What was changed, in the order of the stream.
    pub changes: Vec<Change>,
}

/// A reference that was rewritten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The object and the path in it.
    pub place: String,
    /// The reference as it was written.
    pub from: String,
    /// What stands there now.
    pub to: String,
}

/// [`rewrite`], and the [`gate`] behind it: what everything that reaches a cluster goes through.
///
/// # Errors
/// What both say.
pub fn checked<'m>(manifests: &'m str, pins: &Pins, mapping: &Mapping) -> Result<Checked<'m>> {
    if let Ok(Some(done)) = by_document(manifests, pins, mapping) {
        for Change { place, from, to } in &done.changes {
            tracing::info!("{place}: {from} becomes {to}");
        }
        return Ok(done);
    }
    // Something is wrong: all of it once more, for a message with the whole list and with lines of the whole stream.
    let Rewritten { text, changes } = rewrite(manifests, pins, mapping)?;
    gate(&text, pins, mapping)?;
    Ok(Checked { pieces: vec![text.into()], changes })
}

/// One document after the other, so that what is read stays close at hand. The gate sees on the way what is not exchanged, and
/// the outcome where something was. None, if anything points outside.
fn by_document<'m>(manifests: &'m str, pins: &Pins, mapping: &Mapping) -> Result<Option<Checked<'m>>> {
    let mut rewriter = Rewriter { pins, mapping, changes: vec![], gate: Some(Gate::new(pins, mapping)) };
    let mut after = Gate::new(pins, mapping);
    let (mut pieces, mut documents_before) = (vec![], 0);
    // Where the next document starts, and all that has to be passed on.
    let (mut at, mut unchanged) = (0, 0);
    for document in documents(manifests) {
        let stream = Stream::parse_after(document, documents_before)?;
        documents_before += stream.roots().len();
        let mut gate = |changed: &Stream<'_>| mention::walk(changed, &mut after).map(drop);
        if let Some(text) = mention::walk_and_prove(&stream, &mut rewriter, &mut gate)? {
            pieces.extend([manifests[unchanged..at].into(), text.into()]);
            unchanged = at + document.len();
        }
        at += document.len();
    }
    pieces.push(manifests[unchanged..].into());
    let is_clean = after.outcome().is_ok() && rewriter.gate.is_some_and(|gate| gate.outcome().is_ok());
    Ok(is_clean.then_some(Checked { pieces, changes: rewriter.changes }))
}

/// Rewrites every reference of `pins` to where `mapping` has it.
///
/// # Errors
/// When the manifests are not YAML, or a reference can't be written where it belongs.
pub fn rewrite(manifests: &str, pins: &Pins, mapping: &Mapping) -> Result<Rewritten> {
    let stream = Stream::parse(manifests)?;
    let mut rewriter = Rewriter { pins, mapping, changes: vec![], gate: None };
    let text = mention::walk(&stream, &mut rewriter)?.unwrap_or_else(|| manifests.into());
    Ok(Rewritten { text, changes: rewriter.changes })
}

struct Rewriter<'a> {
    pins: &'a Pins,
    mapping: &'a Mapping,
    changes: Vec<Change>,
    /// Sees what is not exchanged.
    gate: Option<Gate<'a>>,
}

impl Visitor for Rewriter<'_> {
    fn cares(&self, text: &str) -> bool {
        self.pins.may_be_in(text)
    }

    fn means(&self, text: &str) -> bool {
        self.pins.means(text)
    }

    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
        let exchange = self.exchange(mention);
        match &mut self.gate {
            Some(gate) if exchange.is_none() => gate.visit(mention),
            _ => Ok(exchange),
        }
    }
}

impl Rewriter<'_> {
    fn exchange(&mut self, mention: &Mention<'_>) -> Option<Exchange> {
        if mention.role == Role::Doubtful && !self.means(&mention.text) {
            return None;
        }
        let (source, digest) = self.pins.find(&mention.text)?;
        let (exchange, to) = match &mention.spelling {
            Spelling::Piece(_) => {
                let to = self.mapping.image(&source, &digest);
                (Exchange::Text(to.clone()), to)
            }
            Spelling::Fields(fields) => self.fields(fields, &source, &digest)?,
        };
        if to == mention.text {
            return None;
        }
        self.changes.push(Change {
            place: mention.spot.to_string(),
            from: mention.text.clone().into_owned(),
            to,
        });
        Some(exchange)
    }

    /// New values of fields, and what they come to. They are put together by a program that knows nothing of
    /// `TAG@DIGEST`: the digest goes only where there is a field for it, and the tag stays. None if a program adds a part of
    /// the name that the name at the site does not end with: the gate then stops it.
    fn fields(&self, fields: &Fields, source: &Reference, digest: &Digest) -> Option<(Exchange, String)> {
        let write = |slot: &Slot, value: &str| (slot.id, format!("{}{value}", slot.lead));
        let at_site = self.mapping.repository(source);
        let full = format!("{}/{at_site}", self.mapping.registry());
        if fields.below.as_ref().is_some_and(|below| !full.ends_with(&format!("/{below}"))) {
            return None;
        }
        let above = |path: &str| match &fields.below {
            Some(below) => path.strip_suffix(below).unwrap_or(path).trim_end_matches('/').to_owned(),
            None => path.to_owned(),
        };
        let mut values = match &fields.registry {
            Some(registry) => {
                vec![write(registry, self.mapping.registry()), write(&fields.repository, &above(&at_site))]
            }
            None => vec![write(&fields.repository, &above(&full))],
        };
        let tag = source.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
        let to = match &fields.digest {
            Some(field) => {
                let hex = digest.hex();
                let value = if fields.bare_digest { hex } else { digest.to_string() };
                values.push(write(field, &value));
                format!("{full}{tag}@{digest}")
            }
            None => format!("{full}{tag}"),
        };
        Some((Exchange::Fields(values), to))
    }
}

/// Refuses manifests in which anything points outside: a pod spec's image that is not an image of the bundle, by
/// digest, at the site; or a reference of the lock that is left anywhere, even in text that is not safe to rewrite.
///
/// # Errors
/// Of kind Trust, with the list.
pub fn gate(manifests: &str, pins: &Pins, mapping: &Mapping) -> Result<()> {
    let stream = Stream::parse(manifests)?;
    let mut gate = Gate::new(pins, mapping);
    mention::walk(&stream, &mut gate)?;
    gate.outcome()
}

struct Gate<'a> {
    pins: &'a Pins,
    mapping: &'a Mapping,
    /// Every image of the bundle where it is at the site: `REPOSITORY@DIGEST`.
    at_site: HashSet<String>,
    left: Vec<String>,
    foreign: Vec<String>,
}

impl Visitor for Gate<'_> {
    fn cares(&self, text: &str) -> bool {
        self.pins.may_be_in(text)
    }

    fn means(&self, text: &str) -> bool {
        self.pins.means(text)
    }

    fn visit(&mut self, mention: &Mention<'_>) -> Result<Option<Exchange>> {
        let registry = self.mapping.registry();
        let may_be_at_site =
            mention.text.get(..registry.len()).is_some_and(|host| host.eq_ignore_ascii_case(registry));
        if may_be_at_site && self.is_at_site(&mention.text) {
            // `root@D` at the end of `SITE/root:root@D` may be an image of the bundle as well.
            return Ok(Some(Exchange::Keep));
        }
        let known = self.pins.find(&mention.text).is_some();
        if known || mention.role == Role::PodImage {
            let list = if known { &mut self.left } else { &mut self.foreign };
            list.push(format!("{}: {}", mention.spot, mention.text));
        }
        Ok(None)
    }
}

impl<'a> Gate<'a> {
    fn new(pins: &'a Pins, mapping: &'a Mapping) -> Self {
        let at_site =
            pins.images().iter().map(|(source, digest)| format!("{}@{digest}", mapping.repository(source)));
        Self { pins, mapping, at_site: at_site.collect(), left: vec![], foreign: vec![] }
    }

    fn is_at_site(&self, text: &str) -> bool {
        text.parse::<Reference>().is_ok_and(|reference| {
            reference.registry() == self.mapping.registry()
                && reference.digest().is_some_and(|digest| {
                    self.at_site.contains(&format!("{}@{digest}", reference.repository()))
                })
        })
    }

    fn outcome(self) -> Result<()> {
        let (mut reasons, mut hints) = (vec![], vec![]);
        if !self.foreign.is_empty() {
            reasons.push(format!("not an image of this bundle:{}", lines(&self.foreign)));
            hints.push("add what is missing as `[[image]]` to bundle.toml, then lock and build again");
        }
        if !self.left.is_empty() {
            reasons.push(format!("still the source's name:{}", lines(&self.left)));
            hints.push(
                "set the value in the chart to a reference that stands by itself, so that it can be rewritten",
            );
        }
        match reasons.is_empty() {
            true => Ok(()),
            false => Err(Error::trust(
                format!("checking that every image comes from {}", self.mapping.registry()),
                reasons.join("\n"),
            )
            .hint(hints.join("; "))),
        }
    }
}

fn lines(items: &[String]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "site:5000/mirror";

    fn mapping() -> Mapping {
        Mapping::new(SITE, false).expect("a mapping")
    }

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    /// The lock of these tests; image n is pinned to `digest(n)`.
    fn pins() -> Pins {
        let by_digest = format!("q.io/by/digest:1@{}", digest(10));
        let images =
            ["docker.io/library/redis:8", "q.io/a/b:1.2", "docker.io/b/c", &by_digest, "h:5/nats:2.10.10"];
        Pins::new((1..).zip(images).map(|(n, text)| (text.parse().expect(text), digest(n))))
    }

    fn rewritten(manifests: &str) -> Rewritten {
        rewrite(manifests, &pins(), &mapping()).expect(manifests)
    }

    /// `REDIS`, `AB` and the like stand for what is at the site.
    fn at_site(text: &str) -> String {
        [
            ("REDIS", "docker.io/library/redis:8", 1),
            ("AB", "q.io/a/b:1.2", 2),
            ("BC", "docker.io/b/c", 3),
            ("BD", "q.io/by/digest:1", 4),
            ("NATS", "h_5/nats:2.10.10", 5),
        ]
        .iter()
        .fold(text.to_owned(), |text, (name, path, n)| {
            text.replace(name, &format!("{SITE}/{path}@{}", digest(*n)))
        })
    }

    #[test]
    fn references_are_rewritten_and_nothing_else() {
        let d10 = digest(10);
        let d2 = digest(2);
        for (before, after) in [
            // Pod specs: every spelling of the same image.
            ("{containers: [{image: redis:8}]}", "{containers: [{image: REDIS}]}"),
            (
                "containers:\n- image: 'docker.io/redis:8' # redis:8\n  name: redis:8\n",
                "containers:\n- image: 'REDIS' # redis:8\n  name: REDIS\n",
            ),
            ("containers: [{image: b/c}]", "containers: [{image: SITE/docker.io/b/c@D3}]"),
            ("containers: [{image: b/c:latest}]", "containers: [{image: SITE/docker.io/b/c:latest@D3}]"),
            ("containers: [{image: q.io/by/digest@D10}]", "containers: [{image: SITE/q.io/by/digest@D4}]"),
            (
                "containers: [{image: q.io/by/digest:other@D10}]",
                "containers: [{image: SITE/q.io/by/digest:other@D4}]",
            ),
            ("containers: [{image: q.io/a/b@D2}]", "containers: [{image: SITE/q.io/a/b@D2}]"),
            ("volumes: [{image: {reference: q.io/a/b:1.2}}]", "volumes: [{image: {reference: AB}}]"),
            // Anchors are rewritten once, where they stand.
            ("x: &x q.io/a/b:1.2\ncontainers:\n- image: *x\n", "x: &x AB\ncontainers:\n- image: *x\n"),
            // Args and commands.
            ("args: [--image=redis:8, --image, \"redis:8\"]", "args: [--image=REDIS, --image, \"REDIS\"]"),
            (
                "command:\n- sh\n- -c\n- >-\n  run 'redis:8'\n  q.io/a/b:1.2,h:5/nats:2.10.10;\n    x\n",
                "command:\n- sh\n- -c\n- >-\n  run 'REDIS'\n  AB,NATS;\n    x\n",
            ),
            // Environment.
            (
                "env:\n- value: |\n    1=redis:8\r\n    2=q.io/a/b:1.2\n",
                "env:\n- value: |\n    1=REDIS\r\n    2=AB\n",
            ),
            ("env: [{name: IMAGE, value: b/c}]", "env: [{name: IMAGE, value: BC}]"),
            // Custom resources.
            ("spec: {image: redis:8, images: [b/c, redis:8]}", "spec: {image: REDIS, images: [BC, REDIS]}"),
            (
                "image: {repository: a/b, registry: q.io, tag: 1.2, digest: ''}",
                "image: {repository: mirror/q.io/a/b, registry: \"site:5000\", tag: 1.2, digest: 'D2'}",
            ),
            (
                "image:\n  repository: q.io/a/b\n  tag: \"1.2\"\n",
                "image:\n  repository: SITE/q.io/a/b\n  tag: \"1.2\"\n",
            ),
            (
                "{repository: q.io/a, image: b, version: '1.2', hub: ''}",
                "{repository: SITE/q.io/a, image: b, version: '1.2', hub: ''}",
            ),
            (
                "args: [--x-image-repository=q.io/a/b, --x-image-tag, '1.2']",
                "args: [--x-image-repository=SITE/q.io/a/b, --x-image-tag, '1.2']",
            ),
            (
                "env: [{name: X_IMAGE, value: q.io/a/b}, {name: X_IMAGE_TAG, value: '1.2'}]",
                "env: [{name: X_IMAGE, value: SITE/q.io/a/b}, {name: X_IMAGE_TAG, value: '1.2'}]",
            ),
            (
                "image: {repository: q.io/a/b, tag: 1.2, digest: }",
                "image: {repository: SITE/q.io/a/b, tag: 1.2, digest: }",
            ),
            // Files within ConfigMaps, annotations, image names with a scheme.
            (
                "data:\n  é.yaml: |\n    image: q.io/a/b:1.2\n    # é redis:8.\n",
                "data:\n  é.yaml: |\n    image: AB\n    # é REDIS.\n",
            ),
            // Found by fuzzing: in the comment there is what the document has, too.
            (
                "data:\n  a.yaml: |\n    image: q.io/a/b:1.2\n    # image: q.io/a/b:1.2\n",
                "data:\n  a.yaml: |\n    image: AB\n    # image: AB\n",
            ),
            ("data: {j: '{\"image\":\"h:5/nats:2.10.10\"}'}", "data: {j: '{\"image\":\"NATS\"}'}"),
            ("a: docker://redis:8", "a: docker://REDIS"),
        ] {
            let short = |text: &str| {
                text.replace("D10", &d10.to_string())
                    .replace("D2", &d2.to_string())
                    .replace("D3", &digest(3).to_string())
                    .replace("D4", &digest(4).to_string())
                    .replace("SITE", SITE)
            };
            let (before, after) = (short(before), at_site(&short(after)));
            let once = rewritten(&before);
            assert_eq!(once.text, after, "{before}");
            assert!(!once.changes.is_empty());
            assert_eq!(
                rewritten(&after),
                Rewritten { text: after.clone(), changes: vec![] },
                "twice: {before}"
            );
            gate(&after, &pins(), &mapping()).expect(&after);
            gate(&before, &pins(), &mapping()).expect_err(&before);
            let checked = checked(&before, &pins(), &mapping()).expect(&before);
            assert_eq!((checked.pieces.concat(), checked.changes), (once.text, once.changes));
        }
    }

    #[test]
    fn rewriting_and_gate_in_one_see_what_both_see() {
        let rest = "containers: [{image: redis:8}]\n---\n";
        for (manifests, said) in [
            (
                "containers: [{image: other}]",
                "not an image of this bundle:\n  document 2 containers[0].image: other",
            ),
            ("a: '${R}redis:8'", "still the source's name:\n  document 2 a: redis:8"),
        ] {
            let error =
                checked(&format!("{rest}{manifests}"), &pins(), &mapping()).expect_err(said).to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_reference_of_the_lock_stays() {
        for manifests in [
            // Bare words are images only where images are.
            "name: redis\nlabels: {app: redis}\ncommand: [redis, nats]\na: b/c\nrepository: b/c\npath: docker.io/b/c\n",
            "redis:8: x\n? q.io/a/b:1.2\n: y\n",
            "# redis:8\na: =\nb: 010\n",
            "a: [redis:80, 'redis:8-alpine', x/redis:8, redis:6379, q.io/a/b:1.20, q.io/a/b:1, r.io/a/b:1.2]\n",
            "a: 'Redis:8'\nb: q.io/a/b\n",
            "repository: b/c\ntag: v9\n",
            "",
        ] {
            assert_eq!(rewritten(manifests), Rewritten { text: manifests.into(), changes: vec![] });
            gate(manifests, &pins(), &mapping()).expect(manifests);
        }
    }

    #[test]
    fn what_means_an_image_becomes_its_reference() {
        let pin = |text: &str| Pin {
            reference: "docker.io/library/redis:8".parse().expect("a reference"),
            digest: digest(1),
            meant_by: vec![text.into()],
        };
        for (text, manifests) in [
            ("cache", "a: [cache, caches, 'the cache']\n"),
            ("${REG}/redis:8", "a: '${REG}/redis:8'\n"),
            ("redis:cache", "a: 'x redis:cache y'\n"),
        ] {
            let pins = Pins::new([pin(text)]);
            gate(manifests, &pins, &mapping()).expect_err("still there");
            let after = rewrite(manifests, &pins, &mapping()).expect("a rewriting").text;
            assert_eq!(after, manifests.replacen(text, &at_site("REDIS"), 1));
            gate(&after, &pins, &mapping()).expect(&after);
        }
    }

    #[test]
    fn changes_say_where_and_what() {
        let changes =
            rewritten("kind: Pod\nmetadata: {name: x}\nspec: {containers: [{image: redis:8}]}").changes;
        let place = "Pod/x spec.containers[0].image".into();
        assert_eq!(changes, [Change { place, from: "redis:8".into(), to: at_site("REDIS") }]);
    }

    #[test]
    fn a_source_at_the_site_registry_is_rewritten_once() {
        let pins = Pins::new([("site:5000/x:1".parse().expect("a reference"), digest(1))]);
        let before = "containers: [{image: site:5000/x:1}]";
        let once = rewrite(before, &pins, &mapping()).expect("once");
        assert_eq!(
            once.text,
            before.replace("site:5000/x:1", &format!("{SITE}/site_5000/x:1@{}", digest(1)))
        );
        assert_eq!(rewrite(&once.text, &pins, &mapping()).expect("twice").text, once.text);
        gate(&once.text, &pins, &mapping()).expect("nothing outside");
    }

    #[test]
    fn a_tag_that_is_called_as_an_image_is_is_not_one() {
        let pins = Pins::new([("root:root".parse().expect("a reference"), digest(1))]);
        let after = rewrite("a: root:root owns it\n", &pins, &mapping()).expect("a rewriting").text;
        assert_eq!(after, format!("a: {SITE}/docker.io/library/root:root@{} owns it\n", digest(1)));
        gate(&after, &pins, &mapping()).expect("nothing outside");
        let glued = format!("{after}b: '${{R}}:root@{}'\n", digest(1));
        gate(&glued, &pins, &mapping()).expect_err("what is not behind the site's name");
    }

    #[test]
    fn the_gate_lists_what_points_outside() {
        let (d1, d9) = (digest(1), digest(9));
        for (manifests, said) in [
            (
                "containers: [{image: other}]".into(),
                "not an image of this bundle:\n  document 1 containers[0].image: other",
            ),
            ("containers: [{image: '{{ x }}'}]".into(), "containers[0].image: {{ x }}"),
            ("containers: [{image: r.io/redis:8}]".into(), "r.io/redis:8"),
            ("containers: [{image: redis:9}]".into(), "redis:9"),
            // However it is spelled.
            ("\"contai\\u006eers\": [{\"im\\x61ge\": other}]".into(), "containers[0].image: other"),
            ("containers: [{? image : other}]".into(), "containers[0].image: other"),
            ("containers: {a: {image: other}}".into(), "containers.a.image: other"),
            ("containers: {image: other}".into(), "containers.image: other"),
            ("Containers: [{IMAGE: other}]".into(), "Containers[0].IMAGE: other"),
            ("container\u{17f}: [{image: other}]".into(), "[0].image: other"),
            ("volumes: {m: {Image: {reference: other}}}".into(), "volumes.m.Image.reference: other"),
            ("containers: [{image: !!str null}]".into(), "containers[0].image: null"),
            ("containers: [{image: other, image: ''}]".into(), "containers[0].image: other"),
            ("x: &x {image: other}\ncontainers: [{<<: *x}]".into(), "containers[0].image: other"),
            ("x: &x [{image: other}]\ncontainers: *x".into(), "containers[0].image: other"),
            (
                "kind: List\nitems: [{kind: Pod, spec: {containers: [{image: other}]}}]".into(),
                "List items[0].spec.containers[0].image: other",
            ),
            // At the site, but: no digest, another digest, another repository, outside the prefix.
            (format!("containers: [{{image: {SITE}/docker.io/library/redis:8}}]"), "library/redis:8"),
            (format!("containers: [{{image: '{SITE}/docker.io/library/redis:8@{d9}'}}]"), "library/redis:8@"),
            (format!("containers: [{{image: '{SITE}/docker.io/library/nginx@{d1}'}}]"), "library/nginx@"),
            (format!("containers: [{{image: 'site:5000/docker.io/library/redis@{d1}'}}]"), "library/redis@"),
            // Left in a text that is not safe to rewrite.
            ("a: '${REGISTRY}redis:8'".into(), "still the source's name:\n  document 1 a: redis:8"),
            ("a: '${REGISTRY}/redis:8'".into(), "still the source's name:\n  document 1 a: redis:8"),
            ("a: 'https://q.io/a/b:1.2'".into(), "a: q.io/a/b:1.2"),
            ("a: 'x:redis:8'".into(), "a: redis:8"),
        ] {
            let error = gate(&manifests, &pins(), &mapping()).expect_err(&manifests);
            assert!(error.to_string().contains(said), "{error}");
            assert_eq!(error.kind(), crate::error::Kind::Trust);
            assert!(error.hint_text().is_some());
        }
    }
}
