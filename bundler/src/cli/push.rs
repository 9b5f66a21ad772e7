//! `airlock push`.

use std::sync::Arc;

use bundler::Result;
use bundler::push::Pushed;

use super::printer::human;
use super::{Network, Printer, Trusted, mapping};

/// Arguments of `push`.
#[derive(clap::Args)]
#[command(override_usage = "airlock push [OPTIONS] --registry <REGISTRY[/PREFIX]> <BUNDLE>")]
pub struct Args {
    #[command(flatten)]
    trusted: Trusted,
    /// The site's registry, and where in it.
    #[arg(long, value_name = "REGISTRY[/PREFIX]", required_unless_present = "place")]
    registry: Option<String>,
    /// The old spelling of `--registry`.
    #[arg(value_name = "REGISTRY[/PREFIX]", hide = true, conflicts_with = "registry")]
    place: Option<String>,
    /// Leave the source's host out of the repositories' names; refused if two would collide.
    #[arg(long)]
    strip_host: bool,
    /// Put every repository directly below REGISTRY[/PREFIX], with `--` for `/` in its name: for registries that allow only two
    /// levels of path, such as Docker Hub.
    #[arg(long)]
    flat: bool,
    #[command(flatten)]
    network: Network,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let registry = args.registry.as_ref().or(args.place.as_ref()).map_or("", String::as_str);
    let mapping = mapping(registry, args.strip_host, args.flat)?;
    let bundle = Arc::new(args.trusted.open(printer)?);
    let pushed = bundler::push::push(&bundle, &args.network.client()?, &mapping, &printer.progress()).await?;
    printer.result(&pushed, || summary(registry, &pushed))
}

/// What was pushed, in a line.
pub fn summary(registry: &str, pushed: &Pushed) -> String {
    let Pushed { items, unchanged, blobs_sent, bytes_sent } = pushed;
    let bytes = human(*bytes_sent);
    format!(
        "{registry} has {items} images, charts and files ({unchanged} unchanged); {blobs_sent} blobs sent, {bytes}\n"
    )
}
