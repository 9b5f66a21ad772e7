//! `airlock mirrors`.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bundler::mirrors::{self, Choices, Runtime, Settings, State};
use bundler::{Error, Result, file};
use clap::ValueEnum;

use super::{AtSite, Printer, Trusted};

/// The value of a `--plain-http` without one: the site's registry. No host has this name.
const THE_SITES: &str = "=";

/// Arguments of `mirrors`.
#[derive(clap::Args)]
pub struct Args {
    /// What pulls images on the nodes.
    #[arg(value_enum)]
    runtime: RuntimeArg,
    #[command(flatten)]
    trusted: Trusted,
    #[command(flatten)]
    at_site: AtSite,
    /// The registry is `airlock serve`, which also answers names without the source's host, as Docker asks for them.
    #[arg(long)]
    from_serve: bool,
    /// A PEM file with certificate authorities that the nodes are to trust the site's registry by.
    #[arg(long, alias = "ca", value_name = "FILE", env = "AIRLOCK_CA_FILE", value_delimiter = ',')]
    ca_file: Vec<PathBuf>,
    /// Registries that speak plain HTTP, as the nodes are told of the site's.
    #[arg(long, value_name = "HOST[:PORT]", env = "AIRLOCK_PLAIN_HTTP", value_delimiter = ',')]
    plain_http: Vec<String>,
    /// Let nodes ask the source's own registry for what the site does not have. Otherwise nothing outside is asked.
    #[arg(long)]
    keep_upstream: bool,
    /// Write the files below this directory (`/` on a node itself); without it, print them.
    #[arg(long, alias = "output", short_alias = 'o', value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Write over files that airlock did not write.
    #[arg(long, requires = "output_dir")]
    force: bool,
    /// A containerd configuration to look at: fails if it would not read what is written.
    #[arg(long, alias = "check", value_name = "CONFIG.TOML")]
    check_config: Option<PathBuf>,
}

/// [`Runtime`], as the command line has it.
#[derive(Clone, Copy, ValueEnum)]
enum RuntimeArg {
    /// containerd 1.6 or newer: certs.d/HOST/hosts.toml.
    Containerd,
    /// k3s: registries.yaml.
    K3s,
    /// RKE2: registries.yaml.
    Rke2,
    /// CRI-O, podman: registries.conf.d.
    Crio,
    /// Docker's engine: daemon.json; for Docker Hub's images only.
    Docker,
}

/// Gives `--plain-http` of `mirrors` a value where it has none: so it was spelled once, and meant the site's registry.
pub fn old_spelling(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let verb = arguments.iter().position(|argument| argument == "mirrors").unwrap_or(arguments.len());
    for at in verb..arguments.len() {
        let is_host = arguments.get(at + 1).is_some_and(|next| {
            let is_runtime = next.to_str().is_some_and(|next| RuntimeArg::from_str(next, false).is_ok());
            !is_runtime && !next.as_bytes().starts_with(b"-") && !Path::new(next).exists()
        });
        if arguments[at] == "--plain-http" && !is_host {
            arguments[at] = format!("--plain-http={THE_SITES}").into();
        }
    }
    arguments
}

pub fn run(args: &Args, printer: &Printer) -> Result<()> {
    let runtime = match args.runtime {
        RuntimeArg::Containerd => Runtime::Containerd,
        RuntimeArg::K3s => Runtime::K3s,
        RuntimeArg::Rke2 => Runtime::Rke2,
        RuntimeArg::Crio => Runtime::Crio,
        RuntimeArg::Docker => Runtime::Docker,
    };
    if args.check_config.is_some() && runtime != Runtime::Containerd {
        return Err(Error::input("reading --check-config", "it looks at containerd's configuration")
            .hint("use it with `airlock mirrors containerd`"));
    }
    let mapping = args.at_site.mapping()?;
    let read = |path: &PathBuf| {
        file::read_text(path).map_err(|e| Error::input(format!("reading {}", path.display()), e))
    };
    let plain_http = args.plain_http.iter().any(|host| host == mapping.registry() || host == THE_SITES);
    let authorities = args.ca_file.iter().map(read).collect::<Result<Vec<_>>>()?;
    let ca = (!authorities.is_empty() && !plain_http).then(|| authorities.join("\n"));
    let choices = Choices { plain_http, keep_upstream: args.keep_upstream, from_serve: args.from_serve };
    let bundle = args.trusted.open(printer)?;
    let config = mirrors::configure(runtime, &Settings::new(&bundle, mapping, ca, choices)?)?;
    let output = args.output_dir.as_deref().filter(|path| *path != Path::new("-"));
    let states = output.map(|root| mirrors::write(root, &config.files, args.force)).transpose()?;
    let value = serde_json::json!({
        "runtime": runtime, "files": config.files, "states": states, "notes": config.notes,
    });
    let mut text = String::new();
    for (n, file) in config.files.iter().enumerate() {
        let _ = match (output, &states) {
            (Some(root), Some(states)) => {
                writeln!(text, "{:9} {}", said(states[n]), root.join(&file.path).display())
            }
            _ => {
                write!(text, "{}==> /{} <==\n{}", if n > 0 { "\n" } else { "" }, file.path, file.content)
            }
        };
    }
    printer.document(&value, [&*text])?;
    config.notes.iter().for_each(|note| printer.note(&format!("- {note}")));
    match &args.check_config {
        Some(path) => check(path, &read(path)?, printer),
        None => Ok(()),
    }
}

fn said(state: State) -> &'static str {
    match state {
        State::Created => "created",
        State::Replaced => "replaced",
        State::Unchanged => "unchanged",
    }
}

fn check(path: &Path, text: &str, printer: &Printer) -> Result<()> {
    let verdict = mirrors::check_containerd(text, "/etc/containerd/certs.d")?;
    let (path, why) = (path.display(), verdict.why);
    if !verdict.reads_certs_d {
        let refused = Error::input(format!("checking {path}"), "it does not make containerd read certs.d");
        return Err(refused.hint(why));
    }
    printer.note(&format!("- {path}: {why}"));
    Ok(())
}
