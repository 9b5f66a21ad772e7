//! `airlock discover`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use bundler::cache::ContentCache;
use bundler::discover::confirm::{Asking, confirm};
use bundler::discover::{Class, Found, discover};
use bundler::helm::Helm;
use bundler::lock::{Update, survey};
use bundler::origin::Sources;
use bundler::{Error, Result, interrupt};

use super::{Network, Printer, lock};

/// Most that is read of stdin, in bytes: one more than a YAML stream may have.
const STDIN_CAP: u64 = bundler::yaml::MAX_SOURCE as u64 + 1;

/// What to do about what is only possible.
pub const WHAT_TO_DO: &str = "say in bundle.toml what it is: list its registry in `registries`, `add` it to its chart, `map` it to an image, or `ignore` it with a reason";

/// Arguments of `discover`.
#[derive(clap::Args)]
pub struct Args {
    /// Rendered manifests to look into, instead of the charts of bundle.toml; `-` for stdin.
    #[arg(value_name = "MANIFESTS")]
    manifests: Vec<PathBuf>,
    /// What is wanted.
    #[arg(long, value_name = "FILE", default_value = "bundle.toml")]
    file: PathBuf,
    /// Ask no registry: then nothing outside of pod specs is certain.
    #[arg(long)]
    offline: bool,
    /// Registries to ask, beside those that pod specs and `registries` in bundle.toml name.
    #[arg(long = "ask", value_name = "HOST[:PORT]", value_delimiter = ',')]
    registries: Vec<String>,
    /// Fail if anything is only possible, or a registry can't be asked.
    #[arg(long)]
    strict: bool,
    /// The helm to render charts with; the one on PATH otherwise.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    helm: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let client = args.network.client()?;
    let mut listed = args.registries.clone();
    let mut found = if args.manifests.is_empty() {
        let spec = lock::read_spec(&args.file)?;
        listed.extend(spec.registries.iter().cloned());
        let cache = ContentCache::of_user();
        let sources = Sources { client: &client, cache: &cache, base: lock::base(&args.file) };
        let helm = || Helm::find(args.helm.as_deref());
        let survey = survey(&spec, None, &Update::Nothing, &helm, &sources).await?;
        survey.warnings.iter().for_each(|warning| printer.warn(warning));
        survey.found
    } else {
        let mut all = vec![];
        for path in &args.manifests {
            let reading = || format!("reading {}", path.display());
            all.extend(discover(&read(path)?).map_err(|e| e.within(reading()))?);
        }
        all
    };
    if args.offline {
        let open = found.iter_mut().filter(|f| f.class == Class::Possible && f.why.is_none());
        open.for_each(|f| f.why = Some("no registry was asked (--offline)".into()));
    } else {
        let listed = listed.into_iter().collect();
        confirm(&mut found, &Asking { listed, forgiving: !args.strict, ..Asking::default() }, &client)
            .await?;
    }
    let possible = found.iter().filter(|f| !f.is_wanted()).count();
    printer.result(&serde_json::json!({"references": report(&found)}), || text(&found))?;
    if args.strict && possible > 0 {
        let why = format!("{possible} places may name images, and nobody says whether they do");
        return Err(Error::input("looking for references with --strict", why).hint(WHAT_TO_DO));
    }
    Ok(())
}

/// Manifests of a file, or of stdin.
pub fn read(path: &std::path::Path) -> Result<String> {
    let failed = |e| Error::input(format!("reading {}", path.display()), e);
    if path.as_os_str() == "-" {
        let mut text = String::new();
        // More is refused when it is parsed.
        interrupt::idle(|| std::io::stdin().take(STDIN_CAP).read_to_string(&mut text)).map_err(failed)?;
        return Ok(text);
    }
    bundler::file::read_text(path).map_err(failed)
}

/// The reference in full; the text where that is none.
fn name(found: &Found) -> String {
    found.full().map_or_else(|| found.text.clone(), |reference| reference.to_string())
}

/// Finds by what they say: the surest class of each reference, and its places.
fn by_reference(found: &[Found]) -> BTreeMap<(Class, String), Vec<&Found>> {
    let mut surest: BTreeMap<String, Class> = BTreeMap::new();
    for f in found {
        let class = surest.entry(name(f)).or_insert(f.class);
        *class = f.class.min(*class);
    }
    let mut grouped: BTreeMap<(Class, String), Vec<&Found>> = BTreeMap::new();
    for f in found {
        let name = name(f);
        grouped.entry((surest[&name], name)).or_default().push(f);
    }
    grouped
}

fn report(found: &[Found]) -> Vec<serde_json::Value> {
    by_reference(found)
        .into_iter()
        .map(|((class, reference), places)| {
            serde_json::json!({"reference": reference, "class": class, "places": places})
        })
        .collect()
}

/// Texts with their places, for a summary.
pub fn grouped(found: &[Found]) -> BTreeMap<&str, Vec<&Found>> {
    let mut texts: BTreeMap<&str, Vec<&Found>> = BTreeMap::new();
    for f in found {
        texts.entry(&f.text).or_default().push(f);
    }
    texts
}

fn text(found: &[Found]) -> String {
    let mut text = String::new();
    let mut counts = [0; 4];
    let mut last = None;
    for ((class, reference), places) in by_reference(found) {
        counts[class as usize] += 1;
        if last.replace(class) != Some(class) {
            let what = match class {
                Class::Image => "image: pods have them",
                Class::Certain => "certain: their registries have them",
                Class::Possible => "possible: they look like images, and nobody says that they are",
                Class::Unreadable => "unreadable: pods have them, and they are no references",
            };
            let _ = writeln!(text, "{}{what}", if text.is_empty() { "" } else { "\n" });
        }
        let _ = writeln!(text, "  {reference}");
        for f in &places {
            let release = f.release.as_ref().map(|release| format!("{release}: ")).unwrap_or_default();
            let spelled = if f.text == reference { String::new() } else { format!(" as {}", f.text) };
            let _ = writeln!(text, "    {:<10} {release}{}{spelled}", f.kind.to_string(), f.place_named());
        }
        if let Some(why) = places.iter().find_map(|f| f.why.as_ref()).filter(|_| class >= Class::Possible) {
            let _ = writeln!(text, "    {why}");
        }
    }
    let [images, certain, possible, unreadable] = counts;
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = write!(text, "{gap}{images} images, {certain} certain, {possible} possible");
    text.push_str(&if unreadable > 0 { format!(", {unreadable} unreadable\n") } else { "\n".into() });
    text
}
