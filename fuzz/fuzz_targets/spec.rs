//! `bundle.toml`: what is read can be written, and means the same.
#![no_main]

use bundler::spec::Spec;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(spec) = Spec::parse(text) else { return };
    for chart in &spec.charts {
        chart.source().expect("a chart of a spec has one source");
    }
    for file in &spec.files {
        file.digest().expect("a file of a spec has a digest");
    }
    let written = toml::to_string(&spec).expect("a spec can be written");
    let again = Spec::parse(&written).expect("what was written is a spec");
    assert_eq!(again.digest(), spec.digest(), "{written}");
});
