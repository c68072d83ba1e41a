"""Fine-tunes an exported student, or any speech model of transformers, with its Trainer; gdist is not needed.

    python fine_tune.py MODEL SPEECH OUT --target text       speech recognition: characters, by CTC
    python fine_tune.py MODEL SPEECH OUT --target speaker    one class for each utterance, by any column

MODEL is a folder that `gdist export … --format hf` wrote. SPEECH is a CSV table with the columns `path` (relative to
the table), `split` (train, test), the target, and where a file has many utterances, `start` and `num_samples`. It
needs torch, torchaudio, transformers, accelerate and soundfile.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio.functional
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForCTC,
    Trainer,
    TrainingArguments,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2Processor,
)

RATE = 16000


def read(table, target, where):
    """Return the splits: name → [(waveform, value of the target)]; ``where``: column → the value that is kept."""
    splits = {"train": [], "test": []}
    for row in csv.DictReader(table.open(encoding="utf-8", newline="")):
        if row["split"] in splits and row[target] and all(row[key] == value for key, value in where.items()):
            start, count = int(row.get("start") or 0), int(row.get("num_samples") or -1)
            samples, rate = soundfile.read(table.parent / row["path"], count, start, dtype="float32", always_2d=True)
            waveform = torchaudio.functional.resample(torch.from_numpy(samples.mean(1)), rate, RATE)
            splits[row["split"]].append((waveform.numpy(), row[target]))
    return splits


def plain(text):
    """Lower case, letters and single spaces."""
    return " ".join(re.sub(r"[^\w']|[\d_]", " ", text.lower()).split())


def recognizer(model_folder, splits, out, **fields):
    """Return the model with a head for CTC, what makes batches for it, and what measures it."""
    letters = sorted({letter for _, text in splits["train"] for letter in plain(text)} - {" "})
    vocabulary = {symbol: place for place, symbol in enumerate(["<pad>", "<unk>", "|", *letters])}
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = Wav2Vec2CTCTokenizer(out / "vocab.json", bos_token=None, eos_token=None)
    processor = Wav2Vec2Processor(AutoFeatureExtractor.from_pretrained(model_folder), tokenizer)
    model = AutoModelForCTC.from_pretrained(
        model_folder,
        vocab_size=len(vocabulary),
        pad_token_id=tokenizer.pad_token_id,
        ctc_zero_infinity=True,
        trust_remote_code=True,
        **fields,
    )

    def batch(examples):
        waveforms, texts = zip(*examples, strict=True)
        inputs = processor(list(waveforms), sampling_rate=RATE, padding=True, return_tensors="pt")
        labels = processor(text=[plain(text) for text in texts], padding=True, return_tensors="pt")
        return {**inputs, "labels": labels.input_ids.masked_fill(labels.attention_mask == 0, -100)}

    def errors(answers):
        """Edits over characters of the references."""
        found, labels = (  # -100 is where Trainer fills up shorter batches
            np.where(each == -100, tokenizer.pad_token_id, each) for each in (answers.predictions, answers.label_ids)
        )
        said, wanted = processor.batch_decode(found), processor.batch_decode(labels, group_tokens=False)
        edits = sum(map(torchaudio.functional.edit_distance, wanted, said))
        return {"error": edits / sum(map(len, wanted))}

    return model, batch, errors, processor


def classifier(model_folder, splits, out, **fields):
    """Return the same for classes of utterances."""
    classes = sorted({name for _, name in splits["train"]})
    numbers = {name: number for number, name in enumerate(classes)}
    extractor = AutoFeatureExtractor.from_pretrained(model_folder)
    model = AutoModelForAudioClassification.from_pretrained(
        model_folder,
        num_labels=len(classes),
        id2label=dict(enumerate(classes)),
        label2id=numbers,
        use_weighted_layer_sum=True,
        trust_remote_code=True,
        **fields,
    )

    def batch(examples):
        waveforms, names = zip(*examples, strict=True)
        inputs = extractor(list(waveforms), sampling_rate=RATE, padding=True, return_tensors="pt")
        return {**inputs, "labels": torch.tensor([numbers[name] for name in names])}

    return (
        model,
        batch,
        lambda answers: {"error": float((answers.predictions != answers.label_ids).mean())},
        extractor,
    )


def fine_tune(model, batch, errors, splits, out, steps, lr, batch_size=16, accumulate=1, freeze=False):
    """Train, and return the error on the test split before and after.

    A step learns from ``batch_size`` utterances, in ``accumulate`` parts one after another, which takes less memory.
    """
    if freeze:
        model.freeze_base_model()
    else:
        model.freeze_feature_encoder()
    arguments = TrainingArguments(
        output_dir=out,
        max_steps=steps,
        learning_rate=lr,
        warmup_steps=steps // 10,
        per_device_train_batch_size=batch_size // accumulate,
        gradient_accumulation_steps=accumulate,
        per_device_eval_batch_size=batch_size,
        remove_unused_columns=False,
        save_strategy="no",
        report_to="none",
        logging_steps=max(steps // 10, 1),
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=batch,
        train_dataset=splits["train"],
        eval_dataset=splits["test"],
        compute_metrics=errors,
        preprocess_logits_for_metrics=lambda logits, labels: logits.argmax(-1),
    )
    before = trainer.evaluate()["eval_error"]
    trainer.train()
    return before, trainer.evaluate()["eval_error"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("speech", metavar="SPEECH", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path)
    parser.add_argument("--target", default="text", help="the column to learn; text means speech recognition")
    parser.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="keep these rows only")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--accumulate", type=int, default=1, help="the parts of a step's 16 utterances; for memory")
    parser.add_argument("--freeze", action="store_true", help="train the head alone")
    given = parser.parse_args()
    torch.manual_seed(0)
    splits = read(given.speech, given.target, dict(each.split("=", 1) for each in given.where))
    make = recognizer if given.target == "text" else classifier
    model, batch, errors, processor = make(given.model, splits, given.out)
    settings = {"accumulate": given.accumulate, "freeze": given.freeze}
    before, after = fine_tune(model, batch, errors, splits, given.out, given.steps, given.lr, **settings)
    model.save_pretrained(given.out)  # with its code, so that it loads again anywhere
    processor.save_pretrained(given.out)
    result = {"error_before": before, "error": after, "utterances": len(splits["test"])}
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
