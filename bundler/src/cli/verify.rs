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
        "bundle": args.trusted.bundle, "name": manifest.name, "version": manifest.version, "serial": manifest.serial,
        "signed_by": bundle.signer(), "size": size, "entries": manifest.entries.len(),
    });
    printer.result(&value, || {
        let signer = bundle
            .signer()
            .map_or_else(|| "signature NOT checked".into(), |id| format!("signed by key {id}"));
        format!(
            "{} {} (serial {}): {signer}; {} entries, {}, all as signed\n",
            manifest.name,
            manifest.version,
            manifest.serial,
            manifest.entries.len(),
            human(size)
        )
    })
}
