"""The steps of an audit as the tools' own pages show them, one after the other, on files given in a JSON file.

    {"steps": ["torch"], "files": ["1.jpg", ...], "labels": ["basalt", ...], "weights": "m.pth", "work": "/tmp/x"}

    cleanvision   Imagelab(filepaths).find_issues() with all issues that it looks for by default, its own processes
    torch         embeddings by torchvision's MobileNetV2, DataLoader with batches of 32; out-of-fold probabilities by
                  scikit-learn; then pytorch-grad-cam image by image as its README shows, of the labelled class, and
                  of the predicted one where it is another, as the audit makes them
    cleanlab      find_label_issues on these probabilities

The last line of its output is JSON: step -> [seconds, processor seconds], imports not counted.
"""

import json
import resource
import sys
import time
from pathlib import Path


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text())
    steps = {"cleanvision": cleanvision, "torch": torch_steps, "cleanlab": cleanlab}
    taken: dict[str, list[float]] = {}
    for step in order["steps"]:
        steps[step](order, taken)
    print(json.dumps(taken))


class Clock:
    """Notes what the block took, this process and the children that have ended."""

    def __init__(self, taken: dict[str, list[float]], step: str) -> None:
        self.taken, self.step = taken, step

    def __enter__(self) -> None:
        self.start = time.perf_counter(), cpu()

    def __exit__(self, *_: object) -> None:
        self.taken[self.step] = [time.perf_counter() - self.start[0], cpu() - self.start[1]]


def cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def cleanvision(order: dict, taken: dict[str, list[float]]) -> None:
    from cleanvision import Imagelab

    with Clock(taken, "cleanvision"):
        Imagelab(filepaths=order["files"], verbose=False).find_issues(verbose=False)


def torch_steps(order: dict, taken: dict[str, list[float]]) -> None:
    import numpy as np
    import torch
    from PIL import Image
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from torchvision import models, transforms

    files, labels = order["files"], np.array(order["labels"])
    model = models.mobilenet_v2(num_classes=len(set(labels)))
    model.load_state_dict(torch.load(order["weights"], weights_only=True), strict=False)
    model.eval()
    steps = [transforms.Resize((224, 224)), transforms.ToTensor()]
    to_tensor = transforms.Compose([*steps, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, row: int) -> torch.Tensor:
            return to_tensor(Image.open(files[row]).convert("RGB"))

    with Clock(taken, "embeddings"), torch.no_grad():
        loader = torch.utils.data.DataLoader(Photos(), batch_size=32)
        features = torch.cat([model.features(batch).mean((2, 3)) for batch in loader]).numpy()
    with Clock(taken, "out_of_fold"):
        regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        probabilities = cross_val_predict(regression, features, labels, cv=5, method="predict_proba")
        np.save(Path(order["work"]) / "probabilities.npy", probabilities)
    fitted = LogisticRegression(max_iter=1000).fit(features, labels)
    if len(fitted.classes_) > 2:
        model.classifier[1].weight.data = torch.tensor(fitted.coef_, dtype=torch.float32)
    targets = np.searchsorted(fitted.classes_, labels)
    with Clock(taken, "grad_cam"):
        cam = GradCAM(model=model, target_layers=[model.features[-1]])
        for file, *wanted in zip(files, targets, probabilities.argmax(1), strict=True):
            image = to_tensor(Image.open(file).convert("RGB"))[None]
            for target in dict.fromkeys(wanted):
                cam(input_tensor=image, targets=[ClassifierOutputTarget(target)])[0, :]


def cleanlab(order: dict, taken: dict[str, list[float]]) -> None:
    import numpy as np
    from cleanlab.filter import find_label_issues

    probabilities = np.load(Path(order["work"]) / "probabilities.npy")
    labels = np.unique(order["labels"], return_inverse=True)[1]
    with Clock(taken, "cleanlab"):
        find_label_issues(labels, probabilities, return_indices_ranked_by="self_confidence")


if __name__ == "__main__":
    main()
