//! Cleaning of texts before they become tokens, the same in training and in serving.

use messages::plan::TextCleaning;
use unicode_categories::UnicodeCategories;
use unicode_normalization_alignments::UnicodeNormalization;

/// What [`TextCleaning`] says, in the order of its variants.
pub fn clean(text: &str, how: &[TextCleaning]) -> String {
    let mut text = text.to_owned();
    let asked = |step| how.contains(&step);
    if asked(TextCleaning::RemoveHtml) {
        text = without_html(&text);
    }
    if asked(TextCleaning::RemoveUrls) {
        text = without_urls(&text);
    }
    if asked(TextCleaning::Lower) {
        text = text.to_lowercase();
    }
    if asked(TextCleaning::StripAccents) {
        text = text.nfd().map(|(c, _)| c).filter(|c| !c.is_mark_nonspacing()).collect();
    }
    if asked(TextCleaning::CollapseBlanks) {
        text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    text
}

/// Tags and comments become a blank, entities their characters. A `<` that begins no tag stays.
fn without_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['<', '&']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some((read, shown)) = tag(rest).map(|read| (read, ' ')).or_else(|| entity(rest)) {
            out.push(shown);
            rest = &rest[read..];
        } else {
            let first = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..first]);
            rest = &rest[first..];
        }
    }
    out.push_str(rest);
    out
}

/// Bytes of the tag or comment that the text begins with.
fn tag(text: &str) -> Option<usize> {
    let after = text.strip_prefix('<')?;
    if let Some(comment) = after.strip_prefix("!--") {
        return Some(4 + comment.find("-->")? + 3);
    }
    let name = after.strip_prefix('/').unwrap_or(after);
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!');
    begins.then(|| text.find('>').map(|end| end + 1)).flatten()
}

/// Bytes and meaning of the entity that the text begins with.
fn entity(text: &str) -> Option<(usize, char)> {
    const LONGEST: usize = 10;
    let end = text.bytes().take(LONGEST).position(|b| b == b';')?;
    let name = &text[1..end];
    let shown = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => ' ',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code).filter(|c| *c != '\0')?
        }
    };
    Some((end + 1, shown))
}

/// Words that begin as an address goes up to the next blank.
fn without_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = ["http://", "https://", "www."].iter().filter_map(|start| find_start(rest, start)).min() {
        out.push_str(&rest[..at]);
        let end = rest[at..].find(char::is_whitespace).map_or(rest.len(), |blank| at + blank);
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Where a word begins so, in whatever case.
fn find_start(text: &str, start: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let found = |at: &usize| {
        bytes[*at..*at + start.len()].eq_ignore_ascii_case(start.as_bytes())
            && !text[..*at].ends_with(|c: char| c.is_alphanumeric())
    };
    (0..(bytes.len() + 1).saturating_sub(start.len())).filter(|at| text.is_char_boundary(*at)).find(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TextCleaning; 5] = [
        TextCleaning::CollapseBlanks,
        TextCleaning::Lower,
        TextCleaning::RemoveHtml,
        TextCleaning::RemoveUrls,
        TextCleaning::StripAccents,
    ];

    #[test]
    fn each_alone() {
        for (how, text, expected) in [
            (TextCleaning::RemoveHtml, "<b>Big</b> sale &amp; more<br/>now", " Big  sale & more now"),
            (TextCleaning::RemoveHtml, "5 < 6 & 7 &unknown; <!-- a > b -->x", "5 < 6 & 7 &unknown;  x"),
            (TextCleaning::RemoveHtml, "&#233;&#x1F600;&#0; <", "é😀&#0; <"),
            (TextCleaning::RemoveUrls, "see https://a.b/c?d=é now, WWW.x.y", "see  now, "),
            (TextCleaning::RemoveUrls, "awww.nice", "awww.nice"),
            (TextCleaning::Lower, "GROẞE İ", "große i\u{307}"),
            (TextCleaning::StripAccents, "Crème Brûlée ½ ñ", "Creme Brulee ½ n"),
            (TextCleaning::CollapseBlanks, " a\t\n b\u{a0}c ", "a b c"),
        ] {
            assert_eq!(clean(text, &[how]), expected, "{how:?}");
        }
    }

    #[test]
    fn the_order_is_fixed() {
        assert_eq!(clean("<p>CAFÉ  http://x.y/Z </p>", &ALL), "cafe");
        assert_eq!(clean(" As it is ", &[]), " As it is ");
        assert_eq!(clean("🇩🇪 مرحبا\u{200f}", &ALL), "🇩🇪 مرحبا\u{200f}");
    }
}
