"""What the licences of timm's pretrained weights allow, told apart by name.

    class_of("cc-by-nc-4.0")      # "non-commercial"

This is a list of what their texts say, no legal advice. Sources: spdx.org/licenses for the common
ones; creativecommons.org/licenses/by-nc/4.0; the LICENSE files of facebookresearch/vissl (SEER),
of the FAIR noncommercial research licence and of apple/ml-aim (Apple Machine Learning Research
Model); ai.meta.com/resources/models-and-libraries/dinov3-license; ai.google.dev/gemma/terms;
NVIDIA's Open Model License; the LICENSE files of apple/ml-cvnets, ml-mobileone and ml-fastvit.
"""

PERMISSIVE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
# for research or private use: a paid contest, a product and a firm's own use are not covered
NON_COMMERCIAL = ("cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr",
                  "seer-license")
# use is allowed under terms of their own: read them before a submission is used
WITH_TERMS = ("dinov3-license", "gemma", "nvidia-open-model-license", "qwen-community-1.0",
              "sapiens2-license", "apple-ascl", "cvnets-license", "mobileone-license",
              "fastvit-license")
CLASSES = {"permissive": PERMISSIVE, "non-commercial": NON_COMMERCIAL, "terms": WITH_TERMS}
# of each class but permissive: what a person is told, of {name} and {licence}
SENTENCES = {
    "non-commercial": "NOT FOR COMMERCIAL USE: the weights of {name} are licensed {licence}",
    "terms": "TERMS TO READ: the weights of {name} are licensed {licence}, which sets terms of its "
             "own; a contest may not allow them",
    "unknown": "LICENCE UNKNOWN: timm records {licence} for the weights of {name}; find out "
               "before the submission is used",
}


def class_of(licence):
    """permissive, non-commercial, terms, or unknown for '' and any name that is not listed."""
    name = licence.lower()
    if name.startswith("cc-by-nc"):
        return "non-commercial"
    return next((kind for kind, names in CLASSES.items() if name in names), "unknown")


def sentence(name, licence):
    """What to tell of a backbone's weights; '' if they are permissive."""
    kind = class_of(licence)
    if kind == "permissive":
        return ""
    return SENTENCES[kind].format(name=name, licence=licence or "no licence")
