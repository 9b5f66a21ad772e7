//! A bundle's charts and values in files, for helm.

use std::path::Path;

use super::{Site, Unpacked};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::format::Chart;
use crate::verify::{VerifiedBundle, chart_content};

/// Unpacks one chart to `directory`, which is made.
pub(super) fn unpack<'a>(
    bundle: &VerifiedBundle,
    chart: &'a Chart,
    site: &'a Site,
    directory: &Path,
) -> Result<Unpacked<'a>> {
    std::fs::create_dir(directory)
        .map_err(|e| Error::input(format!("making directory {}", directory.display()), e))?;
    let content = chart_content(bundle, chart)?;
    let path = directory.join("chart.tgz");
    write(bundle, &content, &path)?;
    let mut values = Vec::new();
    for (n, digest) in chart.values.iter().enumerate() {
        let path = directory.join(format!("values-{n}.yaml"));
        write(bundle, digest, &path)?;
        values.push(path);
    }
    values.extend(site.values.get(&chart.release).into_iter().flatten().cloned());
    let set = chart.set.iter().chain(site.set.get(&chart.release).into_iter().flatten()).cloned().collect();
    let title = format!("{} {}", chart.name, chart.version);
    // A chart that can't be read here is not known to be without addresses.
    let has_needs =
        crate::chart::Chart::from_file(&path).map_or(true, |chart| !chart.schema_needs().is_empty());
    Ok(Unpacked {
        chart,
        title,
        path,
        values,
        set,
        namespace: site.namespace_of(chart).map(Into::into),
        skip_schema_validation: site.skip_schema_validation || has_needs,
    })
}

/// Writes a blob to a file, checked.
pub(super) fn write(bundle: &VerifiedBundle, digest: &Digest, path: &Path) -> Result<()> {
    use std::io::Write as _;
    let writing = |e| Error::input(format!("writing {}", path.display()), e);
    let mut file = std::fs::File::create(path).map_err(writing)?;
    bundle.read(digest, |chunk| file.write_all(chunk).map_err(writing))
}
