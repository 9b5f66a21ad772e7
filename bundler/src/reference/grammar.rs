//! The grammar of references, as distribution's own (`reference.ReferenceRegexp`) and oci-spec's have it.
//!
//! The same as parsing with oci-spec, whose regular expression takes a few dozen milliseconds to be made, at every start of
//! the program, and some fifty microseconds for each reference. But a host means the same in upper case as in lower case.

/// Longest repository.
const MAX_REPOSITORY: usize = 255;
/// Longest tag.
const MAX_TAG: usize = 128;
const DOCKER_HUB: &str = "docker.io";

/// The parts of a reference.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// As written, or Docker Hub's.
    pub(super) registry: &'a str,
    /// With Docker Hub's `library/`.
    pub(super) repository: String,
    pub(super) tag: Option<&'a str>,
    pub(super) digest: Option<&'a str>,
}

/// Takes a reference apart; says why it is none.
pub(super) fn parts(text: &str) -> Result<Parts<'_>, &'static str> {
    const FORMAT: &str = "invalid reference format";
    if text.is_empty() {
        return Err("repository name must have at least one component");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon with a slash behind it is a port's.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if !is_name(name) || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return Err(FORMAT);
    }
    let (registry, repository) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => (DOCKER_HUB, name),
    };
    // Upper case is a host's only. What engines make of `Team/app` differs, and written in full it is nothing at all.
    if !repository.split('/').all(is_component) {
        return Err("repository name must be lowercase");
    }
    let is_hub = ["index.docker.io", DOCKER_HUB].iter().any(|hub| hub.eq_ignore_ascii_case(registry));
    let registry = if is_hub { DOCKER_HUB } else { registry };
    let library = if registry == DOCKER_HUB && !repository.contains('/') { "library/" } else { "" };
    let repository = format!("{library}{repository}");
    if repository.len() > MAX_REPOSITORY {
        return Err("repository name must not be more than 255 characters");
    }
    match digest.and_then(|digest| digest.split_once(':')) {
        None => {}
        Some(("sha256", hex)) if hex.len() == 64 => {}
        Some(("sha384", hex)) if hex.len() == 96 => {}
        Some(("sha512", hex)) if hex.len() == 128 => {}
        Some(("sha256" | "sha384" | "sha512", _)) => return Err("invalid checksum digest length"),
        Some(_) => return Err("unsupported digest algorithm"),
    }
    Ok(Parts { registry, repository, tag, digest })
}

/// Whether a repository can be called so (distribution spec, "Pulling manifests").
pub(crate) fn is_repository(name: &str) -> bool {
    name.len() <= MAX_REPOSITORY && name.split('/').all(is_component)
}

/// `[DOMAIN/]COMPONENT[/COMPONENT]…`
fn is_name(name: &str) -> bool {
    let mut components = name.split('/');
    let first = components.next().unwrap_or_default();
    let mut rest = components.peekable();
    let starts_well = is_component(first) || (rest.peek().is_some() && is_domain(first));
    starts_well && rest.all(is_component)
}

/// `HOST[:PORT]`; the host's labels have dashes only within. An IPv6 address stands in brackets.
fn is_domain(text: &str) -> bool {
    let address = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match (address, text.split_once(':')) {
        (Some((_, port)), _) if !port.is_empty() && !port.starts_with(':') => return false,
        (Some((address, port)), _) => (address, port.strip_prefix(':')),
        (None, Some((host, port))) => (host, Some(port)),
        (None, None) => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let is_host = match address {
        Some((address, _)) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(is_number)
}

/// Lower case letters and digits, with `.`, `_`, `__` or dashes between them.
pub(crate) fn is_component(text: &str) -> bool {
    let is_text = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends_well = bytes.first().is_some_and(|b| is_text(*b)) && bytes.last().is_some_and(|b| is_text(*b));
    let is_separator = |run: &[u8]| matches!(run, [] | b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    ends_well && bytes.split(|b| is_text(*b)).all(is_separator)
}

/// Whether it can be a tag (distribution spec, "Pulling manifests").
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

/// `ALGORITHM:HEX`
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use oci_distribution::Reference as Spelled;

    use super::*;

    /// Pieces of references, whole and broken.
    const PIECES: &[&str] = &[
        "a",
        "b1",
        "redis",
        "A",
        "localhost",
        "docker.io",
        "index.docker.io",
        "q.io",
        "Q.io",
        "h",
        ":5000",
        ":",
        "/",
        "/",
        "//",
        "-",
        "--",
        "_",
        "__",
        "___",
        ".",
        "..",
        "@",
        ":v1",
        ":latest",
        ":V_1.2-x",
        "@sha256:",
        "sha256:",
        "@sha512:",
        "@md5:",
        "@a+b.c:",
        "0",
        "[::1]",
        " ",
        "x-y",
        "x_y",
        "x.y",
        "team/app",
        "http://",
        "+",
    ];

    fn random(rng: &mut Rng) -> String {
        let mut text = String::new();
        for _ in 0..rng.usize(1..7) {
            match rng.usize(0..30) {
                0 => text.push_str(&"f".repeat([31, 32, 64, 96, 128, 129, 256][rng.usize(0..7)])),
                1 => text.push_str(&format!("@sha256:{}", "0a".repeat(32))),
                _ => text.push_str(PIECES[rng.usize(0..PIECES.len())]),
            }
        }
        text
    }

    #[test]
    fn references_are_taken_apart_as_oci_spec_does() {
        let mut good = 0;
        for seed in 0..20_000 {
            let text = random(&mut Rng::with_seed(seed));
            let theirs = text.parse::<Spelled>();
            let ours = parts(&text);
            match (&ours, &theirs) {
                (Ok(ours), Ok(theirs)) => {
                    good += 1;
                    // Theirs says `latest` where nothing was written.
                    let tag = ours.tag.or(ours.digest.is_none().then_some("latest"));
                    assert_eq!(
                        (ours.registry, &*ours.repository, tag, ours.digest),
                        (theirs.registry(), theirs.repository(), theirs.tag(), theirs.digest()),
                        "{text:?}"
                    );
                }
                // Theirs knows no addresses in brackets, which distribution's grammar has.
                (Ok(ours), Err(_)) if ours.registry.starts_with('[') => {}
                (Err(_), Err(_)) if text.starts_with('[') => {}
                (Err(ours), Err(theirs)) => assert_eq!(*ours, theirs.to_string(), "{text:?}"),
                // Theirs can't read its own spelling of it.
                (Err("repository name must be lowercase"), Ok(theirs)) => {
                    assert!(theirs.whole().parse::<Spelled>().is_err(), "{text:?}");
                }
                _ => panic!("{text:?}: {ours:?}, {theirs:?}"),
            }
        }
        assert!(good > 2000, "{good}");
    }
}
