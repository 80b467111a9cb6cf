//! A plan of augmentation for the other tests.

use messages::plan::{
    AugmentationPlan, Chance, Coin, FeatureAugmentation, ImageAugmentation, ImageMethod, MixupPlan, SmotePlan,
    StylePlan, TextAugmentation, TextMethod, WordRange,
};

/// The methods of words and of images at these odds, all switched off.
pub fn augmentation(prob: f64) -> AugmentationPlan {
    let chance = |range| Chance { prob, range };
    let words = WordRange { range: 0.3 };
    AugmentationPlan {
        seed: 9,
        text_augmentation: false,
        visual_augmentation: false,
        prob,
        text: TextAugmentation {
            methods: vec![
                TextMethod::SynonymReplacement,
                TextMethod::RandomInsertion,
                TextMethod::RandomDeletion,
                TextMethod::WordSwap,
            ],
            prob,
            synonym_replacement: words,
            random_insertion: words,
            random_deletion: words,
            word_swap: words,
            synonyms: Some("words.tsv".into()),
            languages: "eng-spa".into(),
        },
        image: ImageAugmentation {
            methods: ImageMethod::ALL.to_vec(),
            crop: chance(0.6),
            rotation: chance(20.0),
            flip: Coin { prob },
            brightness: chance(0.3),
            contrast: chance(0.3),
            saturation: chance(0.3),
            hue: chance(0.1),
            style: StylePlan { prob, range: 0.5, references: vec!["a.idx".into()] },
            blur: chance(1.0),
            noise: chance(0.1),
            cutout: chance(0.5),
        },
        features: FeatureAugmentation {
            methods: vec![],
            perturbation: chance(0.2),
            mixup: MixupPlan { prob, alpha: 0.4 },
        },
        smote: SmotePlan { ratio: None, k_neighbors: 3 },
    }
}
