//! `airlock verify`.

use bundler::Result;

use super::printer::human;
use super::{Printer, Trusted};

/// Arguments of `verify`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let bundle = args.trusted.open(printer)?;
    bundle.check_all(&*printer.progress())?;
    let manifest = bundle.manifest();
    let size = bundle.bundle().layout().file_size;
    let value = serde_json::json!({
        "bundle": args.trusted.bundle.to_string_lossy(), "name": manifest.name, "version": manifest.version, "serial": manifest.serial,
        "signed_by": bundle.signer(), "size": size, "entries": manifest.entries.len(),
    });
    printer.result(&value, || {
        let (signer, as_what) = match bundle.signer() {
            Some(id) => (format!("signed by key {id}"), "signed"),
            None => ("signature NOT checked".into(), "its manifest says"),
        };
        format!(
            "{} {} (serial {}): {signer}; {} entries, {}, all as {as_what}\n",
            manifest.name,
            manifest.version,
            manifest.serial,
            manifest.entries.len(),
            human(size)
        )
    })
}
