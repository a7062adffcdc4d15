"""Named convolutions of real models: what speed is measured on, here and in the tests."""

from typing import NamedTuple


class Shape(NamedTuple):
    """One conv1d: (N, L, C_in) with C_out filters of K taps."""

    N: int
    L: int
    C_in: int
    C_out: int
    K: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    @property
    def arrays(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """The shapes of input and weight."""
        return (self.N, self.L, self.C_in), (self.C_out, self.K, self.C_in // self.groups)

    @property
    def parameters(self) -> dict[str, int]:
        """The keyword arguments of conv1d."""
        return {name: getattr(self, name) for name in self._fields[5:]}


CONV1D = {
    "whisper_conv1": Shape(1, 3000, 80, 512, 3, padding=1),
    "whisper_conv2": Shape(1, 3000, 512, 512, 3, stride=2, padding=1),
    "wav2vec2_l0": Shape(1, 16000, 1, 512, 10, stride=5),
    "wav2vec2_l1": Shape(1, 3199, 512, 512, 3, stride=2),
    "wav2vec2_pos": Shape(1, 250, 768, 768, 128, padding=64, groups=16),
    "hifigan_res": Shape(1, 8192, 64, 64, 11, padding=25, dilation=5),
    "wavenet_d512": Shape(1, 16000, 64, 128, 2, padding=512, dilation=512),
    "tcn_d8": Shape(32, 400, 25, 25, 7, padding=24, dilation=8),
    "textcnn_k5": Shape(64, 128, 300, 100, 5),
    "encodec_in": Shape(1, 24000, 1, 32, 7, padding=3),
    "encodec_out": Shape(1, 24000, 32, 1, 7, padding=3),
    "deepsea_k8": Shape(16, 1000, 4, 320, 8),
    "basenji_d64": Shape(1, 1024, 128, 64, 3, padding=64, dilation=64),
    "mamba_dw4": Shape(1, 2048, 1536, 1536, 4, padding=3, groups=1536),
    "conformer_dw31": Shape(8, 256, 512, 512, 31, padding=15, groups=512),
    "conformer_pw": Shape(8, 256, 512, 1024, 1),
    "resnext_g32": Shape(8, 512, 256, 256, 3, padding=1, groups=32),
    "demucs_enc": Shape(1, 44100, 2, 64, 8, stride=4, padding=2),
    "fir_k129": Shape(1, 480000, 1, 1, 129, padding=64),
    "filterbank_k401": Shape(1, 16000, 1, 64, 401, padding=200),
    "stft_k512": Shape(1, 48000, 1, 514, 512, stride=160),
    "eegnet_dw_k64": Shape(16, 512, 64, 128, 64, padding=32, groups=64),
    "stream_step": Shape(1, 3, 512, 512, 3),
    "tiny": Shape(1, 16, 8, 8, 3, padding=1),
}
