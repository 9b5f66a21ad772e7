//! `airlock lock`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use bundler::cache::ContentCache;
use bundler::helm::Helm;
use bundler::lock::{Changes, Lock, Pinned, Update, pin};
use bundler::origin::Sources;
use bundler::spec::Spec;
use bundler::{Error, Result};

use super::{Network, Printer, discover};

/// Arguments of `lock`.
#[derive(clap::Args)]
pub struct Args {
    /// What is wanted.
    #[arg(long, value_name = "FILE", default_value = "bundle.toml")]
    file: PathBuf,
    /// Where the pins go; beside the spec.
    #[arg(long, value_name = "FILE", default_value = "images.lock")]
    lock_file: PathBuf,
    /// Write nothing; fail (exit code 1) if the lock is not what would be written. Pinned images are not compared with what
    /// their tags point to now, unless --update is given as well.
    #[arg(long)]
    check: bool,
    /// Write nothing, and show what would change; exit code 0 whether or not anything would. `--update --dry-run` shows what is
    /// outdated upstream.
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// Fail if anything looks like a reference without being sure to be one.
    #[arg(long)]
    strict: bool,
    /// Let pins move: all, or only these (an image's reference, a chart's or file's name).
    #[arg(long, value_name = "NAME", num_args = 0..)]
    update: Option<Vec<String>>,
    /// The helm to render charts with; the one on PATH otherwise.
    #[arg(long, value_name = "PATH", env = "AIRLOCK_HELM")]
    helm: Option<PathBuf>,
    #[command(flatten)]
    network: Network,
}

#[derive(serde::Serialize)]
struct Outcome<'a> {
    lock_file: std::borrow::Cow<'a, str>,
    changed: bool,
    /// Nothing was written.
    dry_run: bool,
    changes: &'a Changes,
    serial: u64,
    images: usize,
    charts: usize,
    files: usize,
    bytes: u64,
    /// Texts that look like references and were not taken for images.
    possible: &'a [bundler::discover::Found],
}

pub async fn run(args: &Args, printer: &Printer) -> Result<()> {
    let spec = read_spec(&args.file)?;
    let previous = read_lock(&args.lock_file)?.map(|(lock, _)| lock);
    let cache = ContentCache::of_user();
    let client = args.network.client()?;
    let sources = Sources { client: &client, cache: &cache, base: base(&args.file) };
    let update = match &args.update {
        None => Update::Nothing,
        Some(names) if names.is_empty() => Update::Everything,
        Some(names) => Update::Only(names.iter().map(|name| in_full(name)).collect()),
    };
    let helm = || Helm::find(args.helm.as_deref());
    let Pinned { lock, possible, warnings } =
        pin(&spec, previous.as_ref(), &update, &helm, &sources, &now()?).await?;
    warnings.iter().for_each(|warning| printer.warn(warning));
    if let Update::Only(names) = &update {
        check_names(names, &lock)?;
    }
    let changed = previous.as_ref() != Some(&lock);
    let changes = Changes::between(previous.as_ref(), &lock);
    if let Some(first) = possible.first().filter(|_| args.strict) {
        let why = format!(
            "{} texts in the charts may be images, such as {} ({})",
            possible.len(),
            first.text,
            first.place
        );
        return Err(Error::input("pinning with --strict", why).hint(discover::WHAT_TO_DO));
    }
    if args.check && changed {
        return Err(Error::input(
            format!("checking {}", args.lock_file.display()),
            difference(previous.as_ref(), &lock),
        )
        .hint(match update {
            Update::Nothing => "run `airlock lock` and commit what it writes",
            _ => "run `airlock lock --update`, and commit what it writes",
        }));
    }
    if changed && !args.dry_run {
        write(&args.lock_file, &lock)?;
    }
    if !possible.is_empty() {
        let (texts, places) = (discover::grouped(&possible), possible.len());
        printer.note(&format!(
            "not taken for images: {} texts at {places} places that look like references ({}{})",
            texts.len(),
            texts.keys().take(3).copied().collect::<Vec<_>>().join(", "),
            if texts.len() > 3 { ", …" } else { "" },
        ));
        printer.note("`airlock discover` lists them with their places, and why");
    }
    if let Some(warning) = spec.helm_warning() {
        printer.warn(&warning);
    }
    let outcome = Outcome {
        lock_file: args.lock_file.to_string_lossy(),
        changed,
        dry_run: args.dry_run,
        changes: &changes,
        serial: lock.serial,
        images: lock.images.len(),
        charts: lock.charts.len(),
        files: lock.files.len(),
        bytes: lock
            .images
            .iter()
            .map(|i| i.size)
            .chain(lock.files.iter().map(|f| f.size))
            .fold(0, u64::saturating_add),
        possible: &possible,
    };
    printer.result(&outcome, || {
        let mut text = changes.lines().join("\n");
        let word = match (changed, args.dry_run) {
            (true, false) => "written",
            (true, true) => "not written (--dry-run)",
            (false, _) => "up to date",
        };
        let Outcome { images, charts, files, serial, .. } = outcome;
        let path = args.lock_file.display();
        let _ = writeln!(
            text,
            "\n{path} {word}: {images} images, {charts} charts, {files} files, serial {serial}; {}",
            changes.counted()
        );
        if matches!(update, Update::Nothing) && !changed {
            text.push_str(
                "not compared: what the images' tags point to now; `airlock lock --update --dry-run` asks their registries\n",
            );
        }
        text
    })
}

/// A reference in full, or a name as it is.
fn in_full(name: &str) -> String {
    let reference = name.parse::<bundler::reference::Reference>();
    // A chart's name is a reference to Docker Hub, too: without tag or slash it is taken for a name.
    match reference {
        Ok(reference) if name.contains([':', '/']) => reference.normalised().to_string(),
        _ => name.into(),
    }
}

/// Whether each name is something that is pinned: an update of nothing would look like one that was not needed.
fn check_names(names: &BTreeSet<String>, lock: &Lock) -> Result<()> {
    let images = lock.images.iter().map(|image| image.reference.to_string());
    let named = lock.charts.iter().map(|chart| &chart.name).chain(lock.files.iter().map(|file| &file.name));
    let known: BTreeSet<String> = images.chain(named.cloned()).collect();
    match names.iter().find(|name| !known.contains(*name)) {
        None => Ok(()),
        Some(other) => {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            Err(Error::input("reading --update", format!("no image, chart or file is called {other}"))
                .hint(format!("there are: {known}")))
        }
    }
}

/// What `--check` found, in a line.
fn difference(old: Option<&Lock>, new: &Lock) -> String {
    let Some(old) = old else { return "there is no lock yet".into() };
    let mut parts = Vec::new();
    for image in &new.images {
        match old.images.iter().find(|o| o.reference == image.reference) {
            None => parts.push(format!("{} is not pinned", image.reference)),
            Some(o) if o.digest != image.digest => {
                parts.push(format!("{} is {} now", image.reference, image.digest))
            }
            Some(_) => {}
        }
    }
    let gone = old.images.iter().filter(|o| !new.images.iter().any(|i| i.reference == o.reference));
    parts.extend(gone.map(|o| format!("{} is not wanted any more", o.reference)));
    for chart in &new.charts {
        if !old.charts.iter().any(|o| o.release == chart.release && o.digest == chart.digest) {
            parts.push(format!("chart {} has changed", chart.release));
        }
    }
    if parts.is_empty() {
        parts.push("bundle.toml, a values file or a file has changed".into());
    }
    format!("it is stale: {}", parts.join("; "))
}

/// Directory that relative paths in a spec or lock start from.
pub fn base(file: &Path) -> &Path {
    file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

pub fn read_spec(path: &Path) -> Result<Spec> {
    let reading = || format!("reading {}", path.display());
    let text = bundler::file::read_text(path).map_err(|e| {
        Error::input(reading(), e)
            .hint("say what the bundle is to hold in bundle.toml, or name it with --file")
    })?;
    Spec::parse(&text).map_err(|e| Error::input(reading(), e))
}

/// The lock and its text, if there is one.
pub fn read_lock(path: &Path) -> Result<Option<(Lock, String)>> {
    let reading = || format!("reading {}", path.display());
    match bundler::file::read_text(path) {
        Ok(text) => {
            let lock = Lock::parse(&text).map_err(|e| {
                Error::input(reading(), e).hint("delete it and run `airlock lock` to make it anew")
            })?;
            Ok(Some((lock, text)))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::input(reading(), e)),
    }
}

/// Beside the final name first: a lock is whole, or the one from before.
fn write(path: &Path, lock: &Lock) -> Result<()> {
    use std::io::Write as _;
    let writing =
        |e: std::io::Error| Error::unwritable(format!("writing {}", path.display()), e, "--lock-file");
    let text = lock.to_toml().map_err(|e| Error::input("writing TOML", e))?;
    let mut file = tempfile::Builder::new()
        .prefix(".images-lock-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(base(path))
        .map_err(writing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(writing)?;
    file.persist(path).map_err(|e| writing(e.error))?;
    Ok(())
}

/// The time for `created`: SOURCE_DATE_EPOCH if it is set, else the clock.
fn now() -> Result<String> {
    let time = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds = text.parse().ok().and_then(|s| chrono::DateTime::from_timestamp(s, 0));
            // RFC 3339 has four digits for the year.
            let seconds = seconds.filter(|time| (0..10_000).contains(&chrono::Datelike::year(time)));
            seconds.ok_or_else(|| {
                Error::input("reading SOURCE_DATE_EPOCH", format!("{text:?} is not seconds since 1970"))
            })?
        }
        Err(_) => chrono::Utc::now(),
    };
    Ok(time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
