"""The terms of tables, messages and files that are neither a metric nor a rule: meaning, formula and how to read them.

``layerscope explain`` prints these entries. Metrics, rules and fits explain themselves in their docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One entry of the glossary."""

    name: str
    meaning: str  # one sentence
    formula: str = ""
    reading: str = ""  # how to read a value
    aliases: tuple[str, ...] = ()  # other names of the same thing, such as headings and values of options


COLUMNS = (
    Term("layer_id", "Number of the row; every tensor of the model is counted, including skipped ones.",
         reading="Use it to select a layer, e.g. report.layers[5].", aliases=("#",)),
    Term("name", "Name of the tensor in the model; a part of a fused tensor is added in brackets, e.g. qkv[q].",
         aliases=("layer", "target", "model"), reading="In a CSV of several models, target is the model of the row."),
    Term("layer_type", "Kind of the layer, such as dense, conv2d, embedding, lstm, attention, norm or bias.",
         reading="Norms and biases are vectors, so they have no spectrum and are skipped.", aliases=("type", "kind")),
    Term("shape", "Shape of the tensor as it is stored."),
    Term("N", "Larger side of the matrix or matrices of the layer.", "N = max(out, in)"),
    Term("M", "Smaller side of the matrix or matrices of the layer; each one has M eigenvalues.", "M = min(out, in)"),
    Term("Q", "Aspect ratio of the matrix.", "Q = N / M ≥ 1",
         "α depends on Q, so compare layers of similar Q, or use alpha_farms."),
    Term("rf", "Number of matrices that are pooled into one spectrum: kernel positions, groups or experts (k).",
         reading="A 3×3 convolution has rf = 9 with conv=slices, and 1 with conv=flat.", aliases=("receptive field",)),
    Term("size", "Size of the matrices of the layer: N×M, followed by ·rf if several matrices are pooled.",
         aliases=("N×M·rf",)),
    Term("dtype", "Number format in which the tensor is stored, such as float32 or bfloat16.",
         reading="It limits the precision: eigenvalues below it count as zero."),
    Term("params", "Number of entries of the tensor.", aliases=("parameters",)),
    Term("skipped", "Reason why the tensor was not analyzed; empty for analyzed layers."),
    Term("verdicts", "Codes of the findings about the layer, such as LS101.",
         reading="Run layerscope explain with a code. Failed means that the layer could not be measured.",
         aliases=("verdict", "finding", "findings", "failed")),
    Term("note", "How the tensor is read as a matrix, or why it is skipped."),
    Term("how", "How the tensor is read as one or several matrices, e.g. split q, k, v or stored (in, out)."),
    Term("layers averaged", "Number of layers in means and medians.",
         reading="Layers without an α, embeddings and collapsed layers are excluded.",
         aliases=("layers", "averaged", "median over layers", "left_out")),
    Term("step", "Training step at which the model was measured.", aliases=("steps",)),
    Term("loss", "Mean loss over the evaluated examples."),
    Term("accuracy", "Share of examples for which the most likely class is the label.",
         reading="Barriers of accuracy are barriers of the error, 1 − accuracy.", aliases=("error",)),
    Term("severity", "How serious a finding is: info needs no action, warn needs a look, error means a broken layer.",
         aliases=("info", "warn")),
    Term("?", "Marks an α that does not support a verdict.",
         reading="Reasons: the layer looks untrained (LS103), a short tail (under 20 eigenvalues), a poor fit, a flat "
         "spectrum (α above 20), or a tail that is not a power law (LS106).",
         aliases=("doubtful", "looks untrained", "short tail", "poor fit", "flat spectrum", "not a power law")),
    Term("±", "Larger half of the interval of α: from alpha to alpha_low or alpha_high."),
)  # fmt: skip

SPECTRA = (
    Term("λ", "Eigenvalue of WᵀW, the square of a singular value of W.", "λ = σ(W)²", aliases=("eigenvalue", "lambda")),
    Term("spectrum", "All eigenvalues λ of WᵀW; the ESD (empirical spectral density) is their histogram.",
         aliases=("ESD", "spectra")),
    Term("tail", "The largest eigenvalues, from xmin on, to which the power law is fitted.",
         "p(λ) ∝ λ^−α for λ ≥ xmin"),
    Term("bulk", "The part of the spectrum that looks like that of a random matrix.",
         "Marchenko–Pastur law: σ²(√N − √M)² ≤ λ ≤ σ²(√N + √M)²"),
    Term("spike", "An eigenvalue beyond the edge of the random bulk: a learned direction, or outlier weights.",
         aliases=("spikes",)),
    Term("Tracy–Widom edge", "Edge of the bulk including the random fluctuation of the largest eigenvalue.",
         reading="At most 1 % of random matrices have an eigenvalue beyond it (spike_rate).", aliases=("edge",)),
    Term("shuffle", "The same matrix with its entries in random order, which removes all correlations.",
         reading="A layer with the spectrum of its shuffles has learned nothing visible (LS103).",
         aliases=("shuffles",)),
    Term("outlier weights", "Single weights so large that the shuffled matrix has eigenvalues beyond the random edge.",
         reading="Martin and Mahoney call it a correlation trap. See LS104 for causes and remedies.",
         aliases=("correlation trap", "trap")),
    Term("isolated large eigenvalues", "A few of the largest eigenvalues that stand apart from the tail and raise α.",
         reading="WeightWatcher calls them fingers. --fix-fingers clip_xmax removes them from the fit. See LS108.",
         aliases=("finger",)),
    Term("over-trained", "WeightWatcher's name for a layer with a very heavy tail, α below 2: its papers take it as a "
         "sign that the layer fits details of the training data.",
         reading="On small networks with a known outcome, it does not separate good from bad: 32 of 128 good ones "
         "and 28 of 99 bad ones have such a layer. See LS101.",
         aliases=("very heavy-tailed", "overtrained")),
    Term("under-trained", "WeightWatcher's name for a layer with a weak tail, α above 6: its papers take it as a sign "
         "of too little training or data.", reading="See LS102.", aliases=("light-tailed", "undertrained")),
    Term("clip_xmax", "Setting of fix_fingers: isolated large eigenvalues are removed before the fit."),
    Term("xmin_peak", "Setting of fix_fingers: xmin is searched near the peak of the histogram of log λ."),
    Term("slices", "Setting of conv: a convolution is one matrix (out, in) per kernel position, pooled."),
    Term("flat", "Setting of conv: a convolution is one flat matrix (out, in·kernel)."),
)  # fmt: skip

PHASES = (
    Term("random-like", "Phase: the whole spectrum follows the Marchenko–Pastur law of a random matrix.",
         "KS ≤ 0.1, no eigenvalue beyond the Tracy–Widom edge", "Untrained, or little learned."),
    Term("bleeding-out", "Phase: a random bulk with a few eigenvalues just beyond its edge.",
         "KS ≤ 0.1, λmax ≤ 1.5 · edge", "The layer has started to learn."),
    Term("bulk+spikes", "Phase: a random bulk with clearly separate eigenvalues.", "KS ≤ 0.1, λmax > 1.5 · edge",
         "A few directions are learned on top of noise. Count them by num_spikes."),
    Term("bulk-decay", "Phase: the bulk is deformed, but the tail is not heavy.", "KS > 0.1 or many spikes, α > 6",
         "Correlations deform the bulk: between bulk+spikes and heavy-tailed."),
    Term("heavy-tailed", "Phase: the bulk is deformed and the tail follows a power law.",
         "KS > 0.1 or many spikes, α ≤ 6", "Typical of well-trained layers, with α from 2 to 6. Below 2 see LS101."),
    Term("rank-collapse", "Phase: at least a quarter of the eigenvalues are zero.",
         reading="The layer lost rank. See LS105."),
)  # fmt: skip

DISTANCES = (
    Term("l2", "Euclidean distance between the weights of two models.", "‖a − b‖",
         "Weight decay, scale and permutations change it without changing the function. Do not rank models by it."),
    Term("symmetric", "Distance relative to the norms of both models.", "‖a − b‖ / √(‖a‖² + ‖b‖²)",
         "0 for equal models, 1 for unrelated ones."),
    Term("relative", "Distance relative to the norm of the first model (or layer).", "‖a − b‖ / ‖a‖",
         "0 for equal weights; about 1.4 for unrelated ones of equal norm.", ("rel.dist",)),
    Term("cosine", "Cosine of the angle between the weights of two models (or layers).", "⟨a, b⟩ / (‖a‖ ‖b‖)",
         "1 for the same direction, about 0 for independent weights."),
    Term("centered", "Cosine between the weight updates of two models that started from the same origin o.",
         "⟨a − o, b − o⟩ / (‖a − o‖ ‖b − o‖)", "1 if both models moved in the same direction. Requires --origin.",
         ("centred", "origin")),
    Term("rms", "Distance per entry.", "‖a − b‖ / √P, with P entries"),
    Term("frobenius", "Frobenius norm of the difference of two layers.", "‖A − B‖_F", "0 only for equal weights."),
    Term("CKA", "Similarity (linear centered kernel alignment) of two layers' weights, or of two models' logits.",
         "‖AᵀB‖²_F / (‖AᵀA‖_F ‖BᵀB‖_F)", "1 if equal up to rotation and scale. Weights are not centered, logits are."),
    Term("overlap", "Overlap of the leading right singular subspaces of two layers.",
         "mean squared cosine of the principal angles", "1 for equal subspaces, r/M by chance for r directions."),
    Term("angle", "Largest principal angle between the leading right singular subspaces of two layers, in degrees; for "
         "a plane, the angle at the first model.", reading="0° for equal subspaces, 90° for orthogonal directions."),
    Term("scale", "Symmetric distance after removing scale factors that do not change the function.",
         reading="Requires a module. Compare with symmetric to see the effect of scale."),
    Term("order", "Symmetric distance after removing scale factors and aligning the hidden units.",
         reading="Much smaller than scale: the models differ mostly by a permutation of hidden units."),
    Term("disagreement", "Share of examples for which two models predict different classes."),
    Term("normalized", "Disagreement divided by the mean of both error rates.", reading="1 if the errors are as "
         "independent as possible.", aliases=("normalised",)),
    Term("js", "Mean Jensen–Shannon divergence of the predicted probabilities, in nats.", reading="0 to 0.693 (ln 2).",
         aliases=("Jensen–Shannon divergence", "JSD")),
    Term("logits", "Root mean square difference of two models' logits, after subtracting each example's mean."),
    Term("weights", "Mean distance of models by their weights; as an alignment method, matching of units by weights."),
    Term("activations", "Alignment method: hidden units are matched by their activations on a batch of inputs."),
)  # fmt: skip

LANDSCAPE = (
    Term("loss barrier", "Height of the loss on the path between two models above its level at the ends.",
         "max over t of L(t) − ((1 − t)·L(0) + t·L(1))",
         "0: the models share a basin and can be averaged. See chord, mean_ends, max_ends and signed for variants.",
         ("barrier", "barriers", "error barrier")),
    Term("chord", "Barrier kind: largest excess of the loss over the line that connects the losses of the ends.",
         "max L(t) − ((1 − t)·L(0) + t·L(1))",
         "The default. The words at least mean that some points have no finite loss."),
    Term("mean_ends", "Barrier kind: highest loss minus the mean loss of the ends.", "max L − ½(L(0) + L(1))"),
    Term("max_ends", "Barrier kind: highest loss minus the larger loss of the ends.", "max L − max(L(0), L(1))"),
    Term("signed", "Barrier kind: largest deviation from the mean loss of the ends, with its sign.",
         "L(t*) − ½(L(0) + L(1))", "Negative if the path is better than both ends."),
    Term("barrier at thirds", "Barrier measured from few points, such as t = 1/3 and 2/3.",
         reading="A lower bound: the highest loss may lie between the points. Use more --points."),
    Term("tolerance", "Loss barriers up to this value count as zero.",
         "max(2 standard errors, 2 % of the mean loss of the ends)"),
    Term("hole", "A point of a line or plane without a finite loss.",
         reading="A pair with a hole counts as separated. See LS305.", aliases=("holes",)),
    Term("clamped", "Number of interpolated batch-norm variances below zero that were set to zero."),
    Term("basin", "A set of models between which the loss has no barrier.",
         reading="Models of one basin can be averaged. See LS301 and LS302.", aliases=("basins", "clusters")),
    Term("linearly mode-connected", "Two models without a loss barrier on the straight line between them.",
         reading="They share a basin and can be averaged.", aliases=("linear mode connectivity", "mode connectivity")),
    Term("permutation alignment", "Reordering the hidden units of one model to match those of another.",
         "b → P·b, with f(P·b) = f(b)", "If it removes the barrier, align the models before averaging (LS303).",
         ("alignment", "align", "aligned")),
    Term("REPAIR", "Correction of the means and standard deviations of hidden units after averaging aligned models.",
         reading="Used if a barrier remains after alignment (Jordan et al., ICLR 2023).", aliases=("repaired",)),
    Term("straight", "Barrier on the straight line between models as they are, without alignment.",
         aliases=("as evaluated",)),
    Term("recompute", "Batch-norm policy: running statistics are recomputed on calibration examples at every point."),
    Term("batch", "Batch-norm policy: each batch is normalized by its own statistics."),
    Term("interpolate", "Batch-norm policy: running statistics are interpolated like weights.",
         reading="Its barriers can be an artifact of the statistics. See LS304."),
    Term("keep", "Batch-norm policy: running statistics stay as they are in the model."),
    Term("span", "Range of t along a line: 0 is the first model and 1 the second.", "(1 − t)·a + t·b"),
    Term("plane", "All models a + u·(b − a) + v·(c − a), for three models or two directions.",
         reading="u and v are the coordinates in units of the directions.", aliases=("u", "v")),
    Term("filter", "Random directions: each filter is scaled to the norm of the same filter of the model."),
    Term("global", "Random directions: the whole direction is scaled to the norm of all weights.", aliases=("none",),
         reading="With none, directions are not scaled; with layer, each tensor is scaled separately."),
    Term("bezier", "Path of low loss as a Bézier curve with trained control points."),
    Term("chain", "Path of low loss as straight segments between trained control points.", aliases=("bends",)),
    Term("gradient", "Norm ‖g‖ of the gradient at the model; large values mean that it is not at a minimum (LS309).",
         aliases=("‖g‖",)),
    Term("average", "Sharpness: mean increase of the loss under Gaussian noise relative to each weight.",
         "E[L(θ + σ·|θ|·z)] − L(θ)", aliases=("sharpness", "average_error")),
    Term("SAM", "Sharpness: increase of the loss after a step of length ρ along the gradient.", "L(θ + ρ·g/‖g‖) − L(θ)",
         aliases=("rho",)),
    Term("adaptive", "Sharpness: as SAM, with the step scaled by the size of each weight (ASAM)."),
    Term("worst", "Sharpness: largest increase found in a small box, in percent; a lower bound.",
         "100·(max L(θ + δ) − L) / (1 + L), |δᵢ| ≤ ε(|θᵢ| + 1)", aliases=("worst %", "epsilon")),
    Term("width", "Half-width of the basin in filter norms: where the loss has risen by ln 2, median over directions."),
)  # fmt: skip

CONDITIONING = (
    Term("Σx", "Covariance of the layer inputs a (mean not subtracted), written S_x or Sx in tables and plots.",
         "S_x = E[a aᵀ]", "Read its largest eigenvalue (lambda_max_x) and condition number (kappa_50_x).",
         ("S_x", "Sx", "input covariance", "layer inputs", "input")),
    Term("Σδ", "Covariance of the output gradients d = ∂ℓ/∂h (mean not subtracted), written S_d or Sd in tables.",
         "S_d = E[d dᵀ]", "Read its largest eigenvalue (lambda_max_d) and condition number (kappa_50_d).",
         ("S_d", "Sd", "gradient covariance", "output gradients")),
    Term("κ50", "Condition number at 50 %: largest over median eigenvalue.", "κ_p = λmax / λ_(p %)",
         "Gradient descent needs about κ steps. Above 10⁴ see LS208. κ100 is the usual condition number.",
         ("κ₅₀", "kappa", "κ", "condition number", "κ20", "κ80", "κ100")),
    Term("Fisher matrix", "Covariance of the gradients of single examples; it approximates the curvature of the loss.",
         "F = E[g gᵀ]", "The labels that define g are empirical, mc or exact.", ("fisher", "Fisher", "Fisher block")),
    Term("empirical", "Fisher matrix with the labels of the data.", reading="Its gradients shrink with the loss."),
    Term("mc", "Fisher matrix with labels drawn from the model's predicted distribution (Monte Carlo)."),
    Term("exact", "Fisher matrix as the expectation over the model's predicted distribution. Exact blocks are computed "
         "without K-FAC's assumption."),
    Term("KFAC", "Approximation of a layer's Fisher block by the Kronecker product of its two covariances.",
         "F ≈ S_x ⊗ S_d", "Exact if inputs and output gradients are independent. Check it by kfac_ratio (LS212).",
         ("K-FAC", "Kronecker factors")),
    Term("weight domination", "The gradient is tiny compared with the weight, at a high loss.",
         "σmax(∂L/∂W) / σmax(W) < 0.001", "The layer is stuck. See the metric domination and LS206."),
    Term("hessian", "Matrix of second derivatives of the loss.", aliases=("Hessian",)),
    Term("ggn", "Generalized Gauss–Newton matrix: the part of the Hessian without second derivatives of the model.",
         "JᵀHJ", aliases=("Gauss–Newton",)),
    Term("expand", "Rows of a convolution: one input patch per position."),
    Term("reduce", "Rows of a convolution: input patches averaged over positions."),
    Term("channels", "Rows of a convolution: channels at each position, without the kernel."),
    Term("rows", "Number of input vectors measured: examples times positions.",
         reading="Condition numbers need four rows per direction (LS209)."),
    Term("dead unit", "A unit that no example activates; the metric dying counts them (LS210).",
         aliases=("dead units",)),
    Term("decades", "Powers of ten: 2 decades are a factor of 100."),
    Term("conditioning", "Lens that measures inputs, output gradients and curvature of each layer of a live model."),
    Term("landscape", "Lens that measures distances, loss barriers and basins of several models."),
)  # fmt: skip

TERMS = (*COLUMNS, *SPECTRA, *PHASES, *DISTANCES, *LANDSCAPE, *CONDITIONING)
