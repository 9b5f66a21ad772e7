//! `airlock verify`.

use bundler::Result;

use super::printer::human;
use super::{Printer, Trusted};

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// Check signature, structure, manifests, configs and charts only: at once, whatever the size. `serve`, `push` and `install`
    /// check every other blob when they first read it.
    #[arg(long)]
    quick: bool,
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let bundle = args.trusted.open(printer)?;
    if !args.quick {
        bundle.check_all(&*printer.progress())?;
    }
    let manifest = bundle.manifest();
    let size = bundle.bundle().size();
    let value = serde_json::json!({
        "bundle": args.trusted.bundle.to_string_lossy(), "name": manifest.name, "version": manifest.version, "serial": manifest.serial,
        "signed_by": bundle.signer(), "signers": bundle.signers(), "size": size, "entries": manifest.entries.len(), "layers_checked": !args.quick,
    });
    printer.result(&value, || {
        let (signer, as_what) = match bundle.signers() {
            [] => ("signature NOT checked".into(), "its manifest says"),
            [one] => (format!("signed by key {one}"), "signed"),
            several => (format!("signed by keys {}", several.join(", ")), "signed"),
        };
        let what = if args.quick { "layers and files NOT checked (--quick), all else" } else { "all" };
        format!(
            "{} {} (serial {}): {signer}; {} entries, {}, {what} as {as_what}\n",
            manifest.name,
            manifest.version,
            manifest.serial,
            manifest.entries.len(),
            human(size)
        )
    })
}
