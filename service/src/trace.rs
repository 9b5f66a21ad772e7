//! Trace context (W3C, `traceparent`) and request ids: taken over where they are sound, else made.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use warp::http::{HeaderMap, HeaderValue};

/// Header of the trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Header of the request id.
pub const REQUEST_ID: &str = "x-request-id";

/// Where a request belongs.
#[derive(Debug, PartialEq)]
pub struct Context {
    /// The whole trace.
    pub trace: u128,
    /// Our part of it.
    pub span: u64,
    flags: u8,
    /// What the caller calls the request, if that is sound.
    request: Option<HeaderValue>,
}

impl Context {
    /// The context that `headers` carry on, or a new one.
    pub fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(TRACEPARENT).and_then(|v| parent(v.as_bytes()));
        // A new trace is not marked as recorded: that is for whoever records to decide.
        let (trace, flags) = given.unwrap_or_else(|| (u128::from(random()) << 64 | u128::from(random()), 0));
        let sound =
            |v: &&HeaderValue| (1..=128).contains(&v.len()) && v.as_bytes().iter().all(u8::is_ascii_graphic);
        Self { trace, span: random(), flags, request: headers.get(REQUEST_ID).filter(sound).cloned() }
    }

    /// Tells the caller in an answer's headers.
    pub fn tell(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(&self.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        headers.insert(REQUEST_ID, self.request_id());
    }

    /// The caller's request id, or the trace's.
    pub fn request_id(&self) -> HeaderValue {
        let made = || HeaderValue::from_str(&format!("{:032x}", self.trace));
        self.request.clone().map_or_else(made, Ok).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Trace and flags of a `traceparent`: version, trace, span and flags in lower-case hexadecimal. Later versions may
/// have more behind them; of the flags only the first bit ("sampled") is known.
fn parent(value: &[u8]) -> Option<(u128, u8)> {
    let hex = |range: std::ops::Range<usize>| {
        let digits = std::str::from_utf8(value.get(range)?).ok()?;
        let lower = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        lower.then(|| u128::from_str_radix(digits, 16).ok())?
    };
    let (version, trace, span, flags) = (hex(0..2)?, hex(3..35)?, hex(36..52)?, hex(53..55)?);
    let dashes = [2, 35, 52].into_iter().all(|i| value[i] == b'-');
    let end = match version {
        0 => value.len() == 55,
        0xff => false,
        _ => value.get(55).is_none_or(|b| *b == b'-'),
    };
    (dashes && end && trace != 0 && span != 0).then_some((trace, (flags & 1) as u8))
}

/// A number that no other process is likely to have, and never 0: for names, not for secrets.
pub fn random() -> u64 {
    static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // SplitMix64: each step of the counter gives another number.
    let mut z = SEED.wrapping_add(COUNT.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_sound_parent_is_carried_on() {
        for (value, flags) in
            [(GIVEN, 1), ("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe-more", 0)]
        {
            assert_eq!(
                parent(value.as_bytes()),
                Some((0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, flags)),
                "{value}"
            );
        }
    }

    #[test]
    fn any_other_is_not() {
        for value in [
            "",
            "00",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-+1",
        ] {
            assert_eq!(parent(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn ids_are_told_and_never_the_same() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GIVEN));
        headers.insert(REQUEST_ID, HeaderValue::from_static("order-7"));
        let (one, other) = (Context::of(&headers), Context::of(&HeaderMap::new()));
        assert!(one.span != other.span && one.trace != other.trace);
        let mut told = HeaderMap::new();
        one.tell(&mut told);
        assert_eq!(told[TRACEPARENT], format!("{}{:016x}-01", &GIVEN[..36], one.span).as_str());
        assert_eq!(told[REQUEST_ID], "order-7");
        headers.insert(REQUEST_ID, HeaderValue::from_static("no good"));
        assert_eq!(Context::of(&headers).request_id(), &GIVEN[3..35]);
    }
}
