//! The data schemas that come with the program, as they lie in `deploy/schema/data`.

use super::read::read;
use super::schema::DataSchema;

/// File names and contents.
pub const FILES: [(&str, &str); 4] = [
    ("account_health.json", include_str!("../../../../deploy/schema/data/account_health.json")),
    ("ad_performance.json", include_str!("../../../../deploy/schema/data/ad_performance.json")),
    ("annotated_ads.json", include_str!("../../../../deploy/schema/data/annotated_ads.json")),
    ("industry_benchmark.json", include_str!("../../../../deploy/schema/data/industry_benchmark.json")),
];

/// Names of the schemas.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().filter_map(|(file, _)| file.strip_suffix(".json"))
}

/// The schema of this name.
pub fn schema(name: &str) -> Option<DataSchema> {
    let (_, text) = FILES.iter().find(|(file, _)| file.strip_suffix(".json") == Some(name))?;
    Some(read(text).expect("invariant: the schemas of the program are right, as a test holds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schema_reads_and_has_the_name_of_its_file() {
        for (file, text) in FILES {
            let schema = read(text).unwrap_or_else(|mistakes| panic!("{file}: {mistakes:?}"));
            assert_eq!(format!("{}.json", schema.name), file);
            assert!(!schema.description.is_empty() && schema.rules.len() > 5);
        }
    }
}
