//! PEM files as openssl and cosign read them (RFC 7468, "lax"): lines of any width, ended in any way, with text around the
//! block and other blocks beside it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Width of the lines that strict readers want.
const WIDTH: usize = 64;

/// The label of the first block of a text.
pub(super) fn label(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    rest.split_once("-----").map(|(label, _)| label)
}

/// The content of the first block with one of `labels`. None if there is none, or its content is not Base64.
pub(super) fn content(text: &str, labels: &[&str]) -> Option<Vec<u8>> {
    labels.iter().find_map(|label| {
        let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        BASE64.decode(body.split_ascii_whitespace().collect::<String>()).ok()
    })
}

/// The first block with one of `labels`, in the form that [`write`] gives it.
pub(super) fn strict(text: &str, labels: &[&str]) -> Option<String> {
    let label = labels.iter().find(|label| text.contains(&format!("-----BEGIN {label}-----")))?;
    content(text, &[label]).map(|content| write(label, &content))
}

/// A block, in lines of 64 characters.
pub(super) fn write(label: &str, content: &[u8]) -> String {
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in BASE64.encode(content).as_bytes().chunks(WIDTH) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    format!("{pem}-----END {label}-----\n")
}
