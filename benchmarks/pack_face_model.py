"""Pack ICT-FaceKit's light model into one file, for machines that get few files.

python benchmarks/pack_face_model.py ICT-FaceKit/FaceXModel head.npz
"""

import argparse
from pathlib import Path

from trainer.synthetic.face_model import pack_face_model

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("file", type=Path)
    args = parser.parse_args()
    pack_face_model(args.folder, args.file)
